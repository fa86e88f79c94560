-- States are a cache of the observations: unlogged, no references, held in their row rather than compressed in vain elsewhere.
truncate encoder_states;
alter table encoder_states drop constraint encoder_states_parcel_key_fkey, drop constraint encoder_states_model_key_fkey;
alter table encoder_states set unlogged;
alter table encoder_states alter column state set storage external;
alter table encoder_states set (toast_tuple_target = 8160);
