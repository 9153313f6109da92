"""Training of the panel detector (script 9): outlined figures, composed ones, loss, validation."""
