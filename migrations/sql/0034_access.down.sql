drop table parcelwatch_access.sessions, parcelwatch_access.api_keys, parcelwatch_access.people;
