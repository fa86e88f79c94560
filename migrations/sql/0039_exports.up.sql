-- Parcels as exports write them: docs/exports.md.

-- By pages in the order of ids, each a statement of its own: an export of a country holds no more than a page on either side, and each
-- statement ends in time.
create function parcelwatch.parcels_known(
    collection_ text, season_ text, as_known_at timestamptz default 'infinity', region_ text default null, after_ text default '',
    n integer default 5000)
returns table (
    parcel_key bigint, source_id text, region text, declared_crop_code text, declared_crop text, hcat_code text, declared_at timestamptz,
    area_ha real, perimeter_m real, not_monitorable_reason text, light text, lights jsonb, likeliest_crop text, probability real,
    observed_to timestamptz, open_alerts jsonb, geom geometry(MultiPolygon, 4326))
language plpgsql volatile security definer rows 5000 set search_path = public, pg_temp as $$
#variable_conflict use_column
declare
    keys bigint[];
begin
    perform settled(as_known_at);
    keys := array(
        select p.parcel_key from parcels p
        where p.collection = collection_ and p.season_key = (select season_key from seasons where name = season_)
          and p.source_id > after_ and p.recorded_at <= as_known_at
          and (region_ is null or p.region_key = (select region_key from regions where code = region_))
        order by p.source_id limit n);
    return query
    with alerted as materialized (
        select a.parcel_key, a.rule, a.alert_key, a.state::text as state, a.colour, a.departed_on, a.opened_at, a.closed_at
        from alerts_recorded_by(as_known_at) a where a.parcel_key = any (keys)
    )
    select p.parcel_key, p.source_id, r.code, d.crop_code, d.crop_name, d.hcat_code, d.declared_at, p.area_ha, p.perimeter_m,
           p.not_monitorable_reason, coalesce(lit.light, 'not_executed')::text, coalesce(lit.lights, '{}'), believed.crop,
           believed.probability, believed.observed_to, coalesce(waiting.alerts, '[]'), p.geom
    from parcels p join regions r using (region_key)
    left join lateral (
        select * from declarations d where d.parcel_key = p.parcel_key and d.recorded_at <= as_known_at
        order by d.recorded_at desc limit 1
    ) d on true
    left join lateral (
        select m.config -> 'classes' ->> (best.nr - 1)::int as crop, best.probability, newest.observed_to
        from (select * from posteriors o where o.parcel_key = p.parcel_key and o.recorded_at <= as_known_at
              order by o.recorded_at desc, o.model_key desc limit 1) newest
        join models m using (model_key)
        cross join lateral (
            select c.probability, nr from unnest(newest.probabilities) with ordinality as c (probability, nr)
            order by c.probability desc limit 1) best
    ) believed on true
    left join lateral (
        -- As lights_recorded_by has them, of a page of parcels.
        select max(one.light) as light, jsonb_object_agg(one.rule, one.light) as lights
        from (
            select f.rule, case when f.outcome = 'OK' and f.colour <> 'green' and f.evidence ? 'suppressed' then 'suppressed'::light
                                when f.outcome = 'OK' then f.colour::text::light
                                when a.state not in ('dismissed', 'closed') then a.colour::text::light
                                else lower(f.outcome::text)::light end as light
            from (select distinct on (found.rule) found.* from findings found
                  where found.parcel_key = p.parcel_key and found.recorded_at <= as_known_at
                  order by found.rule, found.recorded_at desc) f
            left join lateral (
                select known.state, known.colour from alerted known where known.parcel_key = p.parcel_key and known.rule = f.rule
                order by known.opened_at desc, known.alert_key desc limit 1) a on true
        ) one
    ) lit on true
    left join (
        select a.parcel_key, jsonb_agg(jsonb_build_object(
                   'alert_key', a.alert_key, 'rule', a.rule, 'state', a.state, 'colour', a.colour, 'departed_on', a.departed_on)
                   order by a.alert_key) as alerts
        from alerted a where a.closed_at is null group by a.parcel_key
    ) waiting on waiting.parcel_key = p.parcel_key
    where p.parcel_key = any (keys) order by p.source_id;
end
$$;
comment on function parcelwatch.parcels_known is
    'Parcels of a collection and season as known at a time, a page in the order of source_id: what is declared, lights by rule and the parcel''s own, the likeliest crop, alerts that are not closed. The outline, region and areas are today''s.';
grant create on schema parcelwatch to parcelwatch_contract;
alter function parcelwatch.parcels_known owner to parcelwatch_contract;
revoke create on schema parcelwatch from parcelwatch_contract;
revoke execute on function parcelwatch.parcels_known from public;
grant execute on function parcelwatch.parcels_known to parcelwatch_reader, parcelwatch_inspector;

create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.1' $$;
