-- A queue for each season and collection, oldest first: a claim reads its head, however much waits for seasons that no model watches.
alter table pending_work add column season_key smallint, add column collection text;
update pending_work w set season_key = p.season_key, collection = p.collection from parcels p where p.parcel_key = w.parcel_key;
delete from pending_work where season_key is null; -- of no parcel: no worker could ever claim it
alter table pending_work alter column season_key set not null, alter column collection set not null;
alter table pending_work drop constraint pending_work_pkey;
alter table pending_work add primary key (season_key, collection, pending_key);
