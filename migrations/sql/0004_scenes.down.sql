drop view scene_reconciliation;
drop table found_scenes, scene_passes, scene_tiles;
drop type scene_state;
delete from scene_ledger where outcome <> 'stored';
