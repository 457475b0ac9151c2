"""The NumPy/CuPy switch: one object per array library, devices, and moving arrays between them."""
