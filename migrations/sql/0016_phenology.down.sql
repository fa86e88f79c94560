drop function phenology_known, phenology_recorded_by;
alter table phenology drop column is_complete, drop column measures, drop column measures_sd, drop column logistic,
    drop column logistic_sd;
