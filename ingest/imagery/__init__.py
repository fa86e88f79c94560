"""From Sentinel-1 and Sentinel-2 products to observations of parcels.

safe, stac ──► Scene ──► raster ── chunks of bands ──► optical | radar ── sums and pixel sets ──► rows of the contract
parcels ── scanlines ──► ParcelIndex ── which pixels of each chunk belong to which parcel ──┘
"""
