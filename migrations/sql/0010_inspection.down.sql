drop function parcel_key_of(text, text, text, boolean);
create function parcel_key_of(collection_ text, season_ text, source_id_ text)
returns bigint language sql stable parallel safe as $$
    select parcel_key from parcels join seasons using (season_key)
    where collection = collection_ and seasons.name = season_ and source_id = source_id_
$$;
comment on function parcel_key_of is 'The key of a parcel from its collection, season and the agency''s own id.';

drop view open_alerts, latest_posteriors;
drop function alerts_known, alerts_recorded_by, parcel_history_available;

create view latest_posteriors as
select parcels.parcel_key, collection, season_key, source_id, declared.crop_name as declared_crop,
       classes.crop as most_likely_crop, classes.probability, newest.observed_to, newest.recorded_at,
       newest.n_s2, newest.n_s1a, newest.n_s1d, newest.n_s1, newest.model_key, newest.probabilities
from parcels
cross join lateral (
    select * from posteriors where posteriors.parcel_key = parcels.parcel_key
    order by posteriors.recorded_at desc, model_key desc limit 1
) newest
join models using (model_key)
cross join lateral (
    select config -> 'classes' ->> (nr - 1)::int as crop, probability
    from unnest(newest.probabilities) with ordinality as p (probability, nr) order by probability desc limit 1
) classes
left join lateral declaration_known(parcels.parcel_key) declared on true;
comment on view latest_posteriors is
    'One row per parcel: the newest crop posterior, its most likely class, how many observations it has seen, beside the declaration.';

create view open_alerts as
select alert_key, parcels.parcel_key, collection, seasons.name as season, source_id, regions.code as region, declared.crop_name as declared_crop,
       rule, state, colour, confidence, departed_on, opened_at, confirmed_at, newest.evidence
from alerts
join parcels using (parcel_key) join seasons using (season_key) join regions using (region_key)
left join lateral declaration_known(parcels.parcel_key) declared on true
cross join lateral (
    select evidence from alert_events where alert_events.alert_key = alerts.alert_key order by recorded_at desc, event desc limit 1
) newest
where closed_at is null;
comment on view open_alerts is 'Alerts not closed yet, with the evidence of their last change.';
