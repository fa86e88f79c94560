-- Pictures from before and after a departure that failed for a passing reason are tried again.

alter table chip_pairs
    add column attempts smallint not null default 1,
    add column next_try_at timestamptz,
    add column last_error text;

comment on column chip_pairs.recorded_at is 'When they were last tried.';
comment on column chip_pairs.next_try_at is 'When they are tried again; null: they were cut, can never be, or were tried often enough.';
comment on column chip_pairs.last_error is 'Why one could not be cut where trying again may help; null: all that can be cut are.';
create index chip_pairs_due on chip_pairs (next_try_at) where next_try_at is not null;
