"""What encoders of images are made of."""
