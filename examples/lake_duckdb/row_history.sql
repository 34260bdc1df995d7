-- All that happened to one row, in commit order. Files come in the order they were written, so sort by `version`.
-- dt= and hour= are the commit time (UTC): a condition on them keeps DuckDB from opening the other files.
set variable lake = coalesce(getvariable('lake'), 'lake');

select committed_at, op, row, transaction, id
from read_json(getvariable('lake') || '/data/public.orders/**/*.jsonl.gz',
               format = 'newline_delimited', maximum_object_size = 67108864, hive_partitioning = true,
               columns = {id: 'varchar', op: 'varchar', key: 'json', row: 'json', version: 'bigint',
                          committed_at: 'timestamptz', transaction: 'varchar'})
where json_extract(key, '$.order_id')::bigint = getvariable('order_id')
  and json_extract(key, '$.item_id')::int = getvariable('item_id')
  and dt >= date '2000-01-01'
order by version;
