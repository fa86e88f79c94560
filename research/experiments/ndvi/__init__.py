"""The experiments of Zhao et al. 2020: NDVI reconstructed from SAR, per date, under cloud and per crop."""
