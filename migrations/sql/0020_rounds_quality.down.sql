-- The version before has no word for it.
alter table alert_events disable trigger append_only;
delete from alert_events where event = 'escalated';
alter table alert_events enable trigger append_only;
alter table alert_events drop constraint alert_events_event_check, add constraint alert_events_event_check check (event in (
    'opened', 'changed', 'confirmed', 'flagged', 'acknowledged', 'reviewed', 'requested', 'answered', 'dismissed', 'verified',
    'closed', 'reopened', 'assigned', 'commented'));

drop view verdicts;
drop function alert_verdicts_recorded_by;
drop table quality_verdicts, quality_items, quality_strata, quality_samples;
drop view published_lights;
drop table round_lights, rounds;
drop function round_is_published, is_append_only, lights_known, lights_recorded_by;
drop type light;
