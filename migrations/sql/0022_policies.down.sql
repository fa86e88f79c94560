drop function policies_known;
drop table policies;
drop function policies_are_append_only;
