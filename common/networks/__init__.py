"""The networks: `nn.Module`s, tensors in, tensors out."""
