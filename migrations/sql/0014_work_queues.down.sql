alter table pending_work drop constraint pending_work_pkey;
alter table pending_work drop column season_key, drop column collection;
alter table pending_work add primary key (pending_key);
