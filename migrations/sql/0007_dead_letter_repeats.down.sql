alter table dead_letters drop column repeats;
