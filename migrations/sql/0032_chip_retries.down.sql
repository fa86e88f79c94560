drop index chip_pairs_due;
alter table chip_pairs drop column attempts, drop column next_try_at, drop column last_error;
comment on column chip_pairs.recorded_at is null;
