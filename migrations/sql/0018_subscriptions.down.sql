drop trigger to_outbox on alert_events;
drop function alert_events_to_outbox;
drop table outbox;
drop table deliveries;
drop table subscription_secrets;
drop table subscriptions;
