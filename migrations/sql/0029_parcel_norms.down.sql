drop table parcel_norms;
