"""Networks that draw fields: a crop for each pixel (U-TAE), and a mask for each field (PaPs)."""
