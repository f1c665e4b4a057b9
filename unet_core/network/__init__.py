"""The U-Net: the network itself, its tiles, and models of one or several networks."""
