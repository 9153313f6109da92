"""Script 7: is a picture as a whole generated? SPAI, its semantic fusion, training, test and use."""
