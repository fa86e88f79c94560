drop view latest_markers;
drop function markers_known, markers_recorded_by;
drop table markers;
