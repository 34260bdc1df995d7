-- The table as it is now: the newest change of every key, without the deleted ones.
-- `version` is the commit time in nanoseconds, the total order of a row's changes.
set variable lake = coalesce(getvariable('lake'), 'lake');

select json_extract(key, '$.order_id')::bigint as order_id,
       json_extract(key, '$.item_id')::int     as item_id,
       arg_max(row, version)                   as row,
       max(committed_at)                       as committed_at
from read_json(getvariable('lake') || '/data/public.orders/**/*.jsonl.gz',
               format = 'newline_delimited', maximum_object_size = 67108864, hive_partitioning = false,
               columns = {op: 'varchar', key: 'json', row: 'json', version: 'bigint', committed_at: 'timestamptz'})
group by key
having arg_max(op, version) <> 'delete'
order by order_id, item_id;
