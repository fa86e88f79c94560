-- The role is the server's, and may be another database's too: it stays, without rights in this one.
drop owned by parcelwatch_watcher;
