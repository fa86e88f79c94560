-- The login of Grafana: an operator of the contract, whose password comes from the environment. Run by psql, again after each start.
\set ON_ERROR_STOP 1
\getenv password PARCELWATCH_GRAFANA_PASSWORD
select 'create role grafana login in role parcelwatch_operator' where not exists (select from pg_roles where rolname = 'grafana') \gexec
select format('alter role grafana password %L connection limit 10', :'password') \gexec
-- A dashboard of years must not hold the server.
alter role grafana set statement_timeout = '30s';
