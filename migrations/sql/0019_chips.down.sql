drop table chips, chip_parcels, chip_pairs;
