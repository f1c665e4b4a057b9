"""``python -m unet_core init FOLDER``: a proposed configuration for a folder of images and annotations."""
