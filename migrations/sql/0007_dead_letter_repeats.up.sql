-- The letter that was sent again and whose message is rejected again, the first of them: no chain to follow. No reference:
-- it is looked up when it is written, and letters that were dealt with may be deleted by a person.
alter table dead_letters add column repeats bigint;
