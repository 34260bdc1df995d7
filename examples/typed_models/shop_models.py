"""A row model: what the columns of public.orders are in the database, since the JSON of the stream does not say."""

from __future__ import annotations

from dsqlcdc.columns import BigInt, Integer, Json, Numeric, Row, Text, Timestamptz


class Order(Row):
    """public.orders. A column that the model lacks goes through as it was sent, so `alter table … add column` breaks nothing."""

    order_id: BigInt
    item_id: Integer
    customer: Text | None
    quantity: Integer | None
    price: Numeric | None
    placed_at: Timestamptz | None
    details: Json | None
