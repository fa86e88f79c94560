do $$
begin
    execute replace(
        pg_get_functiondef('parcelwatch_map.make(smallint, text, smallint[], timestamptz)'::regprocedure),
        ' and database = (select oid from pg_database where datname = current_database()))', ')');
end
$$;
