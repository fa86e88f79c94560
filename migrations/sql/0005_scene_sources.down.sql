drop table scene_sources;
