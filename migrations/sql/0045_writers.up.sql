-- What other databases of the server write is not written here: the map took it for its own, and drew its states up anew for nothing.
do $$
declare
    was constant text := pg_get_functiondef('parcelwatch_map.make(smallint, text, smallint[], timestamptz)'::regprocedure);
    now_ constant text := replace(
        was, 'classid = 20531 and objsubid = 2 and granted)',
        'classid = 20531 and objsubid = 2 and granted and database = (select oid from pg_database where datname = current_database()))');
begin
    if now_ = was then
        raise exception 'parcelwatch_map.make is not what migration 0036 made';
    end if;
    execute now_;
end
$$;
