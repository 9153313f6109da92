"""Script 8: is the face in a clip fake? Spotter: decoding, faces, network, training, test and use."""
