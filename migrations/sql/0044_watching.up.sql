-- How the chain does, for operators whose server has a login of its own: by a role that reads what `parcelwatch status` reads.

do $$
begin
    create role parcelwatch_watcher nologin;
exception when duplicate_object or unique_violation then
    null;
end
$$;
comment on role parcelwatch_watcher is 'Reads the state of the chain for operators of the API.';
do $$
begin
    if not pg_has_role('parcelwatch_watcher', 'member') then
        grant parcelwatch_watcher to current_user;
    end if;
    if not pg_has_role('parcelwatch_web', 'parcelwatch_watcher', 'member') then
        grant parcelwatch_watcher to parcelwatch_web with inherit false, set true;
    end if;
end
$$;
grant select on seasons, parcels, scenes, found_scenes, scene_sources, scene_ledger, chip_pairs, alerts, dead_letters, models, model_activations,
    policies, pending_work, subscriptions, deliveries to parcelwatch_watcher;
