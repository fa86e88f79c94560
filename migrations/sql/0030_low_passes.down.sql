drop table moved_passes, low_neighbours, low_passes;
