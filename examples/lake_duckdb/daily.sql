-- What happened to public.orders each day, and the longest way from a commit to the stream. `lake` is where the sink's prefix begins.
set variable lake = coalesce(getvariable('lake'), 'cdc');

with changes as (
    select distinct on (key, version) op, key, version, committed_at, arrived_at
    from read_json(getvariable('lake') || '/data/public.orders/**/*.jsonl.gz', format = 'newline_delimited',
                   columns = {op: 'varchar', key: 'varchar', version: 'bigint', committed_at: 'timestamptz', arrived_at: 'timestamptz'})
)
select (committed_at at time zone 'UTC')::date as day,
       count(*) filter (op = 'insert') as inserted,
       count(*) filter (op = 'update') as updated,
       count(*) filter (op = 'delete') as deleted,
       count(distinct key) as rows_touched,
       max(arrived_at - committed_at) as longest_way
from changes
group by day
order by day;
