"""The networks from SAR to NDVI as their papers print them, for comparison: no product path draws a curve with them."""
