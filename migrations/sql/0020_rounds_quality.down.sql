drop view verdicts;
drop function alert_verdicts_recorded_by;
drop table quality_verdicts, quality_items, quality_strata, quality_samples;
drop view published_lights;
drop table round_lights, rounds;
drop function round_is_published, is_append_only, lights_known, lights_recorded_by;
drop type light;
