-- Parcels as exports write them: docs/exports.md.

-- By pages in the order of ids, each a statement of its own: an export of a country holds no more than a page on either side, and each
-- statement ends in time. The order is that of the index; a sort would read all that follow, page after page.
create function parcelwatch_access.page_of_parcels(
    collection_ text, season_ smallint, as_known_at timestamptz, region_ text, after_ text, n integer)
returns bigint[] language plpgsql stable set search_path = public, pg_temp set enable_sort = off set enable_bitmapscan = off as $$
begin
    return array(
        select p.parcel_key from parcels p
        where p.collection = collection_ and p.season_key = season_ and p.source_id > after_ and p.recorded_at <= as_known_at
          and (region_ is null or p.region_key = (select region_key from regions where code = region_))
        order by p.collection, p.season_key, p.source_id limit n);
end
$$;
comment on function parcelwatch_access.page_of_parcels is
    'Keys of the next n parcels that who asks may see, in the order of their ids; called by functions of the contract''s owner alone.';

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
    alerts_of jsonb; -- by parcel, newest first: looked up, not joined, which without statistics would compare each with each
begin
    perform settled(as_known_at);
    keys := parcelwatch_access.page_of_parcels(
        collection_, (select season_key from seasons where name = season_), as_known_at, region_, after_, n);
    alerts_of := (
        select coalesce(jsonb_object_agg(parcel_key, alerts), '{}') from (
            select a.parcel_key, jsonb_agg(jsonb_build_object(
                       'alert_key', a.alert_key, 'rule', a.rule, 'state', a.state, 'colour', a.colour, 'departed_on', a.departed_on)
                       order by a.opened_at desc, a.alert_key desc) as alerts
            from alerts_recorded_by(as_known_at) a where a.parcel_key = any (keys) group by a.parcel_key) known);
    return query
    select p.parcel_key, p.source_id, r.code, d.crop_code, d.crop_name, d.hcat_code, d.declared_at, p.area_ha, p.perimeter_m,
           p.not_monitorable_reason, coalesce(lit.light, 'not_executed')::text, coalesce(lit.lights, '{}'), believed.crop,
           believed.probability, believed.observed_to, jsonb_path_query_array(mine.alerts, '$[*] ? (@.state != "closed")'), p.geom
    from parcels p join regions r using (region_key)
    cross join lateral (select coalesce(alerts_of -> p.parcel_key::text, '[]') as alerts) mine
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
        -- As lights_recorded_by has them, of one parcel.
        select max(one.light) as light, jsonb_object_agg(f.rule, one.light) as lights
        from (select distinct on (found.rule) found.rule, found.outcome, found.colour, found.evidence from findings found
              where found.parcel_key = p.parcel_key and found.recorded_at <= as_known_at
              order by found.rule, found.recorded_at desc) f
        left join lateral (
            select a.one ->> 'state' as state, a.one ->> 'colour' as colour
            from jsonb_array_elements(mine.alerts) with ordinality as a (one, nr) where a.one ->> 'rule' = f.rule
            order by a.nr limit 1) a on true
        cross join lateral (
            select case when f.outcome = 'OK' and f.colour <> 'green' and f.evidence ? 'suppressed' then 'suppressed'::light
                        when f.outcome = 'OK' then f.colour::text::light
                        when a.state not in ('dismissed', 'closed') then a.colour::light
                        else lower(f.outcome::text)::light end as light
        ) one
    ) lit on true
    where p.parcel_key = any (keys) order by p.source_id;
end
$$;
comment on function parcelwatch.parcels_known is
    'Parcels of a collection and season as known at a time, a page in the order of source_id: what is declared, lights by rule and the parcel''s own, the likeliest crop, alerts that are not closed. The outline, region and areas are today''s.';
grant create on schema parcelwatch to parcelwatch_contract;
alter function parcelwatch.parcels_known owner to parcelwatch_contract;
revoke create on schema parcelwatch from parcelwatch_contract;
revoke execute on function parcelwatch.parcels_known from public;
revoke execute on function parcelwatch_access.page_of_parcels from public;
grant execute on function parcelwatch_access.page_of_parcels to parcelwatch_contract;
grant execute on function parcelwatch.parcels_known to parcelwatch_reader, parcelwatch_inspector;

create or replace function parcelwatch.contract_version() returns text language sql immutable parallel safe as $$ select '1.1' $$;

-- Services -------------------------------------------------------------------------------------

-- What each service of the chain needs, and no more: docs/operating.md. Group roles of the server, as those of 0033.
do $$
declare
    name text;
begin
    foreach name in array array['parcelwatch_ingest', 'parcelwatch_monitor', 'parcelwatch_deliver', 'parcelwatch_scenes'] loop
        begin
            execute format('create role %I nologin', name);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
end
$$;
comment on role parcelwatch_ingest is 'Consumers: store what the stream says.';
comment on role parcelwatch_monitor is 'Monitors: derive what is believed of parcels, and alert.';
comment on role parcelwatch_deliver is 'Senders: send what subscriptions are to receive.';
comment on role parcelwatch_scenes is 'Workers that cut scenes and pictures, and watchers of catalogues and folders.';

-- Services see every parcel. Ingest and monitors lock parcels, for which the server asks for a right to update: it is one that no row
-- passes.
create policy seen_by_services on parcels for select
    to parcelwatch_ingest, parcelwatch_monitor, parcelwatch_deliver, parcelwatch_scenes using (true);
create policy locked_by_services on parcels for update to parcelwatch_ingest, parcelwatch_monitor using (true) with check (false);
grant update (parcel_key) on parcels to parcelwatch_ingest, parcelwatch_monitor;

grant select on seasons, regions, parcels, declarations, recording
    to parcelwatch_ingest, parcelwatch_monitor, parcelwatch_deliver, parcelwatch_scenes;
grant select, update on sequence recording_high_water to parcelwatch_ingest, parcelwatch_monitor, parcelwatch_deliver, parcelwatch_scenes;

grant select, insert, update on consumed_offsets, scene_ledger to parcelwatch_ingest;
grant select, insert on scenes, s1_observations, s2_observations, pixel_sets, dead_letters, pending_work to parcelwatch_ingest;
grant select on found_scenes to parcelwatch_ingest;

grant select on parcel_lineage, scenes, scene_ledger, found_scenes, s1_observations, s2_observations, pixel_sets,
    model_activations, policies, subscriptions to parcelwatch_monitor;
grant select, insert on models, posteriors, ndvi_months, phenology, markers, crop_progress, low_passes, alert_events to parcelwatch_monitor;
grant select on ndvi_daily to parcelwatch_monitor;
grant select, insert, update on findings, alerts, encoder_states, low_neighbours to parcelwatch_monitor;
grant select, insert, update, delete on pending_work to parcelwatch_monitor;
grant select, insert, delete on moved_passes, parcel_norms to parcelwatch_monitor;
grant insert on outbox to parcelwatch_monitor; -- by the trigger of the log

grant select on alerts, alert_events, findings, subscriptions, subscription_secrets to parcelwatch_deliver;
grant update (failures, not_before, suspended_at, suspended_because) on subscriptions to parcelwatch_deliver;
grant select, insert, update, delete on deliveries to parcelwatch_deliver;
grant select, delete, update (delivery_key, incident) on outbox to parcelwatch_deliver;

grant select, insert, update on consumed_offsets, found_scenes, scene_passes, scene_tiles, scene_places, scene_sources, chips, chip_pairs
    to parcelwatch_scenes;
grant select, insert, delete on scene_ledger to parcelwatch_scenes;
grant select, insert on scenes, dead_letters to parcelwatch_scenes;
grant select on scene_reconciliation, s1_observations, s2_observations, pixel_sets, chip_parcels, alerts, alert_events to parcelwatch_scenes;
