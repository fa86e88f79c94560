-- One message for a regional incident; finished deliveries are removed after a time; suppressed lights.

-- Deliveries -----------------------------------------------------------------------------------

alter table deliveries drop constraint deliveries_state_check,
    add constraint deliveries_state_check check (state in ('pending', 'sent', 'dead', 'discarded'));

-- What a sender asks in each pass: the oldest of those that nobody has anything to do with any more.
create index deliveries_finished on deliveries (ended_at) where state in ('sent', 'discarded');
