"""The networks from SAR to NDVI as their papers print them, for comparison: no product path reconstructs a curve with them."""
