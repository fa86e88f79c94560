drop table scene_places;
alter table found_scenes drop column told_digest, drop column told_as;
