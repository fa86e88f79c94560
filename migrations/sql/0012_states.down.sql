truncate encoder_states;
alter table encoder_states reset (toast_tuple_target);
alter table encoder_states alter column state set storage extended;
alter table encoder_states set logged;
alter table encoder_states
    add constraint encoder_states_parcel_key_fkey foreign key (parcel_key) references parcels,
    add constraint encoder_states_model_key_fkey foreign key (model_key) references models;
