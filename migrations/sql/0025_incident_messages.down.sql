drop index deliveries_finished;
alter table deliveries drop constraint deliveries_state_check;
update deliveries set state = 'dead' where state = 'discarded';
alter table deliveries add constraint deliveries_state_check check (state in ('pending', 'sent', 'dead'));
