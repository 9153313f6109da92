"""The configurations of the training runs. Their fields are the command lines of the training scripts."""
