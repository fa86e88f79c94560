-- Vector tiles of parcels by status and crop, as known at a time: docs/decisions/0016-map.md.

create schema parcelwatch_map;
comment on schema parcelwatch_map is 'What map tiles are made of; private, and made anew when it is lost.';

-- Outlines -------------------------------------------------------------------------------------

create table parcelwatch_map.shapes (
    parcel_key bigint primary key, -- no reference: parcels are never deleted, and an outline without one is shown to nobody
    season_key smallint not null,
    region_key smallint not null,
    source_id text not null,
    changed_at timestamptz not null,
    cell_x integer not null, -- of a grid of 2^16 cells a side: 64 of them a side of a tile at zoom 10
    cell_y integer not null,
    shape geometry(Geometry, 3857) not null
);
comment on table parcelwatch_map.shapes is 'Outlines of parcels for tiles: Web Mercator, simplified to 2 m of it.';
-- Region and season are dimensions of the index: what lies in other regions costs nothing, so that its number cannot be timed.
create index shapes_place on parcelwatch_map.shapes using gist (ST_Force4D(shape, region_key::float8, season_key::float8) gist_geometry_ops_nd);
create index shapes_changed on parcelwatch_map.shapes (season_key, region_key, changed_at);

-- Beyond the latitudes that tiles show there is no Web Mercator; there are no fields either.
create view parcelwatch_map.drawn as
select parcel_key, season_key, region_key, source_id, drawn.shape,
       ((ST_X(middle) + 20037508.342789244) / 40075016.685578488 * 65536)::int as cell_x,
       ((20037508.342789244 - ST_Y(middle)) / 40075016.685578488 * 65536)::int as cell_y
from parcels cross join lateral (select ST_SimplifyPreserveTopology(ST_Transform(geom, 3857), 2) as shape) drawn
cross join lateral (select ST_Centroid(ST_Envelope(drawn.shape)) as middle) centre
where geom is not null and not ST_IsEmpty(geom) and geom @ ST_MakeEnvelope(-179.9, -85, 179.9, 85, 4326);
comment on view parcelwatch_map.drawn is 'Outlines of parcels as tiles need them.';

create function parcelwatch_map.draw() returns trigger language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if tg_op = 'UPDATE' then
        delete from parcelwatch_map.shapes s using changed where s.parcel_key = changed.parcel_key;
    end if;
    insert into parcelwatch_map.shapes
    select parcel_key, season_key, region_key, source_id, clock_timestamp(), cell_x, cell_y, shape
    from parcelwatch_map.drawn where parcel_key in (select parcel_key from changed);
    return null;
end
$$;
comment on function parcelwatch_map.draw is 'Keeps the outlines for tiles as those of the parcels.';
create trigger map_inserted after insert on parcels referencing new table as changed
    for each statement execute function parcelwatch_map.draw();
create trigger map_updated after update on parcels referencing new table as changed
    for each statement execute function parcelwatch_map.draw();
insert into parcelwatch_map.shapes
select parcel_key, season_key, region_key, source_id, clock_timestamp(), cell_x, cell_y, shape
from parcelwatch_map.drawn;

-- States ---------------------------------------------------------------------------------------

-- To find light, declaration and posterior of a parcel as known at a time takes some 0.1 ms: too long for each tile anew.
-- Of each region, so that who asks waits for their own regions alone. Unlogged: lost in a crash, and made anew.
create unlogged table parcelwatch_map.snapshots (
    snapshot_key integer generated always as identity primary key,
    season_key smallint not null,
    collection text not null,
    region_key smallint not null,
    as_known_at timestamptz not null,
    version integer not null, -- grows when anything of it changed
    made_at timestamptz not null,
    asked_at timestamptz not null,
    shapes_to timestamptz, -- the newest outline when it was made
    recorded_to bigint, -- the newest recorded_at given out, where all of that was committed; else null
    is_final boolean not null, -- nothing can be recorded by its time any more
    n_parcels bigint not null,
    counted_version integer not null, -- the version that what follows, and the cells, were counted of
    counts jsonb not null,
    extent geometry(Geometry, 4326),
    unique (season_key, collection, as_known_at, region_key)
);
comment on table parcelwatch_map.snapshots is 'States of the parcels of one region as known at a time.';

create unlogged table parcelwatch_map.states (
    snapshot_key integer not null,
    parcel_key bigint not null,
    light light not null,
    declared text,
    likeliest text,
    probability real,
    primary key (snapshot_key, parcel_key)
);
comment on table parcelwatch_map.states is 'Of each parcel of a snapshot: light, crop declared, crop that is likeliest.';

create unlogged table parcelwatch_map.cells (
    snapshot_key integer not null,
    cell_x integer not null,
    cell_y integer not null,
    n integer not null,
    red integer not null,
    yellow integer not null,
    green integer not null,
    declared text, -- of most of its parcels
    likeliest text,
    primary key (snapshot_key, cell_x, cell_y)
);
comment on table parcelwatch_map.cells is 'Parcels of a snapshot counted by cells, for tiles that show too many.';

grant usage on schema parcelwatch_map to parcelwatch_contract;
grant select on parcelwatch_map.shapes to parcelwatch_contract;
grant select, insert, update, delete on parcelwatch_map.snapshots, parcelwatch_map.states, parcelwatch_map.cells to parcelwatch_contract;

create function parcelwatch_map.newest_shape(season smallint, region smallint) returns timestamptz
language sql stable set search_path = public, pg_temp as $$
    select max(changed_at) from parcelwatch_map.shapes where season_key = season and region_key = region
$$;
comment on function parcelwatch_map.newest_shape is 'When an outline of a region was last changed.';

create function parcelwatch_map.recorded_to() returns bigint
language sql volatile set search_path = public, pg_temp as $$
    select last_value from recording_high_water, recording where clock = 'database'
$$;
comment on function parcelwatch_map.recorded_to is 'The newest recorded_at given out; null in a replay, whose clock is its own.';

-- These run as the owner of the contract, whom row-level security shows the parcels of who asks alone.
create function parcelwatch_map.make(season smallint, collection_ text, regions smallint[], at timestamptz) returns void
language plpgsql volatile set search_path = public, pg_temp as $$
declare
    now_ constant timestamptz := clock_timestamp();
    recorded constant bigint := parcelwatch_map.recorded_to();
    is_writing boolean;
    evicted integer[];
    made integer[];
    changed integer[];
begin
    perform settled(at);
    select exists (select from pg_locks where locktype = 'advisory' and classid = 20531 and objsubid = 2 and granted) into is_writing;

    -- A dozen times are kept: those last asked for.
    with aged as (
        select snapshot_key, dense_rank() over (order by last desc, as_known_at) as nr from (
            select snapshot_key, as_known_at, max(asked_at) over (partition by as_known_at) as last from parcelwatch_map.snapshots k
            where k.season_key = season and k.collection = collection_ and k.as_known_at <> at) asked
    ), gone as (
        delete from parcelwatch_map.snapshots using aged where snapshots.snapshot_key = aged.snapshot_key and nr > 11
        returning snapshots.snapshot_key
    )
    select coalesce(array_agg(snapshot_key), '{}') into evicted from gone;
    delete from parcelwatch_map.states where snapshot_key = any (evicted);
    delete from parcelwatch_map.cells where snapshot_key = any (evicted);

    with kept as (
        insert into parcelwatch_map.snapshots as s (season_key, collection, region_key, as_known_at, version, made_at, asked_at, shapes_to,
                                                    recorded_to, is_final, n_parcels, counted_version, counts)
        select season, collection_, region, at, 0, now_, now_, parcelwatch_map.newest_shape(season, region),
               case when not is_writing then recorded end, at <= now_ and recorded is not null, 0, 0, '{}'
        from unnest(regions) region
        on conflict (season_key, collection, as_known_at, region_key) do update set
            version = s.version + (s.shapes_to is distinct from excluded.shapes_to)::int, made_at = excluded.made_at,
            shapes_to = excluded.shapes_to, recorded_to = excluded.recorded_to, is_final = excluded.is_final
        returning s.snapshot_key
    )
    select array_agg(snapshot_key) into made from kept;

    with watched as materialized (
        select k.snapshot_key, p.parcel_key from parcels p join parcelwatch_map.snapshots k using (region_key)
        where p.season_key = season and p.collection = collection_ and k.snapshot_key = any (made)
    ), known as materialized (
        select w.snapshot_key, w.parcel_key, coalesce(l.light, 'not_executed') as light, d.crop_name as declared,
               m.config -> 'classes' ->> (best.nr - 1)::int as likeliest, best.probability
        from watched w
        left join (select parcel_key, max(light) as light from lights_recorded_by(season, collection_, at) group by parcel_key) l
            using (parcel_key)
        left join lateral (
            select crop_name from declarations o where o.parcel_key = w.parcel_key and o.recorded_at <= at
            order by o.recorded_at desc limit 1
        ) d on true
        left join lateral (
            select model_key, probabilities from posteriors o where o.parcel_key = w.parcel_key and o.recorded_at <= at
            order by o.recorded_at desc, model_key desc limit 1
        ) newest on true
        left join models m using (model_key)
        left join lateral (
            select nr, probability from unnest(newest.probabilities) with ordinality as c (probability, nr)
            order by probability desc limit 1
        ) best on true
    ), gone as (
        delete from parcelwatch_map.states s where s.snapshot_key = any (made)
            and not exists (select from watched w where (w.snapshot_key, w.parcel_key) = (s.snapshot_key, s.parcel_key))
        returning s.snapshot_key
    ), put as (
        insert into parcelwatch_map.states as s select * from known
        on conflict (snapshot_key, parcel_key) do update set
            light = excluded.light, declared = excluded.declared, likeliest = excluded.likeliest, probability = excluded.probability
        where (s.light, s.declared, s.likeliest, s.probability)
              is distinct from (excluded.light, excluded.declared, excluded.likeliest, excluded.probability)
        returning s.snapshot_key
    )
    select array(select snapshot_key from gone union select snapshot_key from put) into changed;

    update parcelwatch_map.snapshots set version = version + 1 where snapshot_key = any (changed);
    -- What follows from the states is made anew where they, or outlines, changed.
    changed := array(select snapshot_key from parcelwatch_map.snapshots where snapshot_key = any (made) and version > counted_version);
    delete from parcelwatch_map.cells where snapshot_key = any (changed);
    insert into parcelwatch_map.cells
    select snapshot_key, cell_x, cell_y, count(*), count(*) filter (where light = 'red'), count(*) filter (where light = 'yellow'),
           count(*) filter (where light = 'green'), mode() within group (order by declared), mode() within group (order by likeliest)
    from parcelwatch_map.states join parcelwatch_map.shapes using (parcel_key)
    where snapshot_key = any (changed) group by snapshot_key, cell_x, cell_y;
    update parcelwatch_map.snapshots k set counted_version = version, n_parcels = counted.n, counts = counted.counts, extent = (
        select ST_Transform(ST_SetSRID(ST_Extent(shape), 3857), 4326) from parcelwatch_map.states join parcelwatch_map.shapes using (parcel_key)
        where snapshot_key = k.snapshot_key)
    from (
        select key as snapshot_key, coalesce(max(n) filter (where kind = 'all'), 0) as n,
               jsonb_object_agg(kind, of_kind) filter (where kind <> 'all') as counts
        from unnest(changed) key cross join lateral (
            select kind, sum(n) as n, jsonb_object_agg(name, n) as of_kind from (
                select kind, coalesce(name, '') as name, sum(n) as n from (
                    select light, declared, likeliest, count(*) as n from parcelwatch_map.states s where s.snapshot_key = key
                    group by light, declared, likeliest) grouped
                cross join lateral (values ('all', ''), ('light', light::text), ('declared', declared), ('likeliest', likeliest)) v (kind, name)
                group by kind, name) named
            group by kind) kinds
        group by key) counted
    where k.snapshot_key = counted.snapshot_key;
end
$$;
comment on function parcelwatch_map.make is 'Makes the states of parcels of regions as known at a time, or brings them up to date.';

create function parcelwatch_map.due(season smallint, collection_ text, at timestamptz, max_age interval) returns smallint[]
language sql volatile set search_path = public, pg_temp as $$
    select coalesce(array_agg(region), '{}') from unnest(parcelwatch_access.my_regions()) region
    where exists (select from parcels p where p.season_key = season and p.region_key = region and p.collection = collection_)
      and not exists (
        select from parcelwatch_map.snapshots k
        where k.season_key = season and k.collection = collection_ and k.as_known_at = at and k.region_key = region
          and (k.is_final or k.recorded_to = parcelwatch_map.recorded_to() or k.made_at > clock_timestamp() - max_age)
          and k.shapes_to is not distinct from parcelwatch_map.newest_shape(season, region))
$$;
comment on function parcelwatch_map.due is 'Regions that who asks may see and whose states are not made, or too old.';

create function parcelwatch_map.snapshots_of(collection_ text, season_ text, at timestamptz, max_age interval) returns integer[]
language plpgsql volatile set search_path = public, pg_temp as $$
declare
    season constant smallint := (select season_key from seasons where name = season_);
    due smallint[] := parcelwatch_map.due(season, collection_, at, max_age);
    found_ integer[];
begin
    if due <> '{}' then
        -- One at a time: the others find it made.
        perform pg_advisory_xact_lock(20536, hashtext(season || collection_));
        due := parcelwatch_map.due(season, collection_, at, max_age);
        if due <> '{}' then
            perform parcelwatch_map.make(season, collection_, due, at);
        end if;
    end if;
    select coalesce(array_agg(snapshot_key), '{}') into found_ from parcelwatch_map.snapshots k
    where k.season_key = season and k.collection = collection_ and k.as_known_at = at
      and k.region_key = any (parcelwatch_access.my_regions()) and k.n_parcels > 0;
    update parcelwatch_map.snapshots set asked_at = clock_timestamp() where snapshot_key in (
        select snapshot_key from parcelwatch_map.snapshots
        where snapshot_key = any (found_) and asked_at < clock_timestamp() - interval '1 hour' for update skip locked);
    return found_;
end
$$;
comment on function parcelwatch_map.snapshots_of is 'The states of the regions that who asks may see, made where they are not or are older than an age.';

-- What is asked --------------------------------------------------------------------------------

create function parcelwatch.map_collections() returns table (collection text, season text, starts_on date, ends_on date)
language plpgsql stable security definer rows 5 set search_path = public, pg_temp as $$
begin
    -- From one collection to the next by the index: there may be millions of parcels.
    return query
    with recursive each as (
        select s.season_key, (select min(p.collection) from parcels p where p.season_key = s.season_key) as name from seasons s
        union all
        select e.season_key, (select min(p.collection) from parcels p where p.season_key = e.season_key and p.collection > e.name)
        from each e where e.name is not null
    )
    select e.name, s.name, s.starts_on, s.ends_on from each e join seasons s using (season_key) where e.name is not null
    order by s.starts_on desc, e.name;
end
$$;
comment on function parcelwatch.map_collections is 'Collections and seasons of which you may see parcels, newest first.';

create function parcelwatch.map_tile(
    collection_ text, season_ text, z integer, x integer, y integer, as_known_at timestamptz default 'infinity')
returns bytea
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    asked integer[];
    bounds geometry;
    wide geometry;
    tile bytea;
begin
    if z not between 0 and 22 or x not between 0 and (1 << z) - 1 or y not between 0 and (1 << z) - 1 then
        return null;
    end if;
    asked := parcelwatch_map.snapshots_of(collection_, season_, as_known_at, interval '10 minutes');
    if asked = '{}' then
        return null;
    end if;
    if z <= 10 then
        with counted as (
            select cell_x >> 10 - z as col, cell_y >> 10 - z as line, sum(n) as n, sum(red) as red, sum(yellow) as yellow, sum(green) as green,
                   declared, likeliest
            from parcelwatch_map.cells
            where snapshot_key = any (asked)
              and cell_x between x << 16 - z and (x + 1 << 16 - z) - 1 and cell_y between y << 16 - z and (y + 1 << 16 - z) - 1
            group by col, line, declared, likeliest
        ), drawn as (
            -- In the tile's own 4096 units, whose y grows downwards.
            select ST_ForcePolygonCCW(ST_MakeEnvelope((col & 63) * 64, (line & 63) * 64, ((col & 63) + 1) * 64, ((line & 63) + 1) * 64)) as geom,
                   sum(n)::int as n, sum(red)::int as red, sum(yellow)::int as yellow, sum(green)::int as green,
                   (array_agg(declared order by n desc, declared))[1] as declared, (array_agg(likeliest order by n desc, likeliest))[1] as likeliest
            from counted group by col, line
        )
        select ST_AsMVT(drawn, 'cells', 4096, 'geom') into tile from drawn;
    else
        bounds := ST_TileEnvelope(z, x, y);
        wide := ST_TileEnvelope(z, x, y, margin => 64.0 / 4096);
        with drawn as materialized (
            select h.parcel_key, h.source_id, s.light::text as light, s.declared, s.likeliest, round(s.probability::numeric, 2)::real as probability,
                   ST_AsMVTGeom(h.shape, bounds, 4096, 64, true) as geom
            from parcelwatch_map.snapshots k
            join parcelwatch_map.shapes h
              on ST_Force4D(h.shape, h.region_key::float8, h.season_key::float8) &&& ST_MakeLine(
                     ST_MakePoint(ST_XMin(wide), ST_YMin(wide), k.region_key, k.season_key),
                     ST_MakePoint(ST_XMax(wide), ST_YMax(wide), k.region_key, k.season_key))
                 -- Not as a column: the planner would read all outlines of a region by the other index.
                 and h.region_key + 0 = k.region_key and h.season_key + 0 = k.season_key
            join parcelwatch_map.states s on s.snapshot_key = k.snapshot_key and s.parcel_key = h.parcel_key
            where k.snapshot_key = any (asked)
        )
        select ST_AsMVT(drawn, 'parcels', 4096, 'geom', 'parcel_key') into tile from drawn where geom is not null;
    end if;
    return tile;
end
$$;
comment on function parcelwatch.map_tile is
    'A vector tile (MVT) of the parcels you may see, as known at a time: layer cells to zoom 10, which counts parcels by light, then layer parcels. Empty where there are none; null where there is no such tile, or nothing of the collection and season. Up to 10 minutes old.';

create function parcelwatch.map_version(collection_ text, season_ text, as_known_at timestamptz default 'infinity') returns text
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    asked constant integer[] := parcelwatch_map.snapshots_of(collection_, season_, as_known_at, interval '10 minutes');
begin
    return (select md5(string_agg(snapshot_key || '.' || version, ' ' order by snapshot_key)) from parcelwatch_map.snapshots
            where snapshot_key = any (asked));
end
$$;
comment on function parcelwatch.map_version is
    'What the tiles that you may see are made from: as long as it is the same, so are they. Null where there is nothing of the collection and season.';

create function parcelwatch.map_state(collection_ text, season_ text, as_known_at timestamptz default 'infinity')
returns table (
    region text, n_parcels bigint, lights jsonb, declared jsonb, likeliest jsonb, west double precision, south double precision,
    east double precision, north double precision, made_at timestamptz)
language plpgsql volatile security definer rows 20 set search_path = public, pg_temp as $$
declare
    asked constant integer[] := parcelwatch_map.snapshots_of(collection_, season_, as_known_at, interval '1 minute');
begin
    return query
    select r.code, k.n_parcels, k.counts -> 'light', k.counts -> 'declared', k.counts -> 'likeliest', ST_XMin(k.extent), ST_YMin(k.extent),
           ST_XMax(k.extent), ST_YMax(k.extent), k.made_at
    from parcelwatch_map.snapshots k join regions r using (region_key)
    where k.snapshot_key = any (asked) order by r.code;
end
$$;
comment on function parcelwatch.map_state is
    'Of each region that you may see: parcels counted by light, declared crop and likeliest crop as known at a time, and where they lie. Up to a minute old.';

create function parcelwatch.map_parcels(
    collection_ text, season_ text, as_known_at timestamptz default 'infinity', area geometry default null, source_id_ text default null,
    light_ text default null, declared_ text default null, likeliest_ text default null, after_ bigint default 0, limit_ integer default 100)
returns table (
    parcel_key bigint, source_id text, region text, light text, declared text, likeliest text, probability real,
    west double precision, south double precision, east double precision, north double precision)
language plpgsql volatile security definer rows 100 set search_path = public, pg_temp as $$
declare
    asked constant integer[] := parcelwatch_map.snapshots_of(collection_, season_, as_known_at, interval '10 minutes');
    -- To the latitudes that a map shows.
    place geometry := ST_Transform(ST_ClipByBox2D(area, ST_MakeEnvelope(-180, -85, 180, 85)), 3857);
    keys bigint[];
begin
    if not exists (select from parcelwatch_map.snapshots where snapshot_key = any (asked) and not ST_Covers(area, extent)) then
        place := null; -- all that there is
    end if;
    -- Two statements: one walks the keys until it has enough, the other the index of places.
    if place is null then
        keys := array(
            select s.parcel_key from parcelwatch_map.states s join parcelwatch_map.shapes h using (parcel_key)
            where s.snapshot_key = any (asked) and s.parcel_key > after_ and (source_id_ is null or starts_with(h.source_id, source_id_))
              and (light_ is null or s.light::text = light_) and (declared_ is null or s.declared = declared_)
              and (likeliest_ is null or s.likeliest = likeliest_)
            order by s.parcel_key limit least(limit_, 1000));
    else
        keys := array(
            select s.parcel_key from parcelwatch_map.snapshots k
            join parcelwatch_map.shapes h
              on ST_Force4D(h.shape, h.region_key::float8, h.season_key::float8) &&& ST_MakeLine(
                     ST_MakePoint(ST_XMin(place), ST_YMin(place), k.region_key, k.season_key),
                     ST_MakePoint(ST_XMax(place), ST_YMax(place), k.region_key, k.season_key))
                 and h.region_key + 0 = k.region_key and h.season_key + 0 = k.season_key
            join parcelwatch_map.states s on s.snapshot_key = k.snapshot_key and s.parcel_key = h.parcel_key
            where k.snapshot_key = any (asked) and ST_Intersects(h.shape, place)
              and s.parcel_key > after_ and (source_id_ is null or starts_with(h.source_id, source_id_))
              and (light_ is null or s.light::text = light_) and (declared_ is null or s.declared = declared_)
              and (likeliest_ is null or s.likeliest = likeliest_)
            order by s.parcel_key limit least(limit_, 1000));
    end if;
    return query
    select s.parcel_key, h.source_id, r.code, s.light::text, s.declared, s.likeliest, s.probability,
           ST_XMin(box), ST_YMin(box), ST_XMax(box), ST_YMax(box)
    from parcelwatch_map.states s join parcelwatch_map.snapshots k using (snapshot_key) join regions r using (region_key)
    join parcelwatch_map.shapes h on h.parcel_key = s.parcel_key
    cross join lateral (select ST_Transform(ST_Envelope(h.shape), 4326) as box) b
    where s.snapshot_key = any (asked) and s.parcel_key = any (keys) order by s.parcel_key;
end
$$;
comment on function parcelwatch.map_parcels is
    'Parcels that a map shows as known at a time, by key: those that touch an area (longitude and latitude), whose id begins so, of a light or crop; at most 1000.';

do $$
declare
    made record;
begin
    grant create on schema parcelwatch, parcelwatch_map to parcelwatch_contract;
    for made in select oid::regprocedure as name, pronamespace from pg_proc
                where pronamespace = 'parcelwatch'::regnamespace and proname like 'map\_%'
                   or pronamespace = 'parcelwatch_map'::regnamespace and proname <> 'draw' loop
        execute format('alter function %s owner to parcelwatch_contract', made.name);
        execute format('revoke execute on function %s from public', made.name);
        if made.pronamespace = 'parcelwatch'::regnamespace then
            execute format('grant execute on function %s to parcelwatch_reader, parcelwatch_inspector', made.name);
        end if;
    end loop;
    revoke create on schema parcelwatch, parcelwatch_map from parcelwatch_contract;
end
$$;
grant select on recording_high_water to parcelwatch_contract;
