"""Classical evidence of forgery: arrays in, arrays out."""
