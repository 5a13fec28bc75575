//! Which conditions may be evaluated on raw rows, below the barrier.
//!
//! Only comparisons of an unmasked column with a literal of the same type, IN, IS NULL, and AND, OR, NOT of such: they
//! cannot fail and so cannot tell of a hidden row. No cast, no function, no arithmetic, no pattern. Everything else
//! stays above, where only visible rows and masked values are.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::expressions as physical;
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_plan::PhysicalExpr;

/// Conditions in one filter, a bound on the work.
const NODES_MAX: usize = 4_096;

fn compares(op: Operator) -> bool {
    use Operator::*;
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn comparable(data_type: &DataType) -> bool {
    !data_type.is_nested() && !matches!(data_type, DataType::Dictionary(_, _) | DataType::RunEndEncoded(_, _))
}

/// For the logical filters of a scan; `plain` gives the type of an unmasked column.
pub fn logical(filter: &Expr, plain: &dyn Fn(&str) -> Option<DataType>) -> bool {
    let mut nodes = 0;
    logical_node(filter, plain, &mut nodes)
}

fn logical_node(expr: &Expr, plain: &dyn Fn(&str) -> Option<DataType>, nodes: &mut usize) -> bool {
    *nodes += 1;
    if *nodes > NODES_MAX {
        return false;
    }
    let column = |e: &Expr| match e {
        Expr::Column(c) => plain(&c.name).filter(comparable),
        _ => None,
    };
    let literal = |e: &Expr, of: &DataType| matches!(e, Expr::Literal(value, _) if value.data_type() == *of);
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            logical_node(left, plain, nodes) && logical_node(right, plain, nodes)
        }
        Expr::Not(inner) => logical_node(inner, plain, nodes),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            column(left).is_some_and(|t| literal(right, &t)) || column(right).is_some_and(|t| literal(left, &t))
        }
        Expr::InList(list) => {
            list.list.len() <= NODES_MAX
                && column(&list.expr).is_some_and(|t| list.list.iter().all(|value| literal(value, &t)))
        }
        Expr::Between(between) => {
            column(&between.expr).is_some_and(|t| literal(&between.low, &t) && literal(&between.high, &t))
        }
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => column(inner).is_some(),
        Expr::Column(_) => column(expr) == Some(DataType::Boolean),
        _ => false,
    }
}

/// For filters that the physical optimizer offers, static ones and dynamic ones (of TopK, joins, aggregates). `plain`
/// says whether the column at an index is unmasked.
pub fn physical(filter: &Arc<dyn PhysicalExpr>, schema: &Schema, plain: &dyn Fn(usize) -> bool) -> bool {
    let mut nodes = 0;
    physical_node(filter, schema, plain, &mut nodes)
}

fn physical_node(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
    plain: &dyn Fn(usize) -> bool,
    nodes: &mut usize,
) -> bool {
    *nodes += 1;
    if *nodes > NODES_MAX {
        return false;
    }
    let column = |e: &Arc<dyn PhysicalExpr>| {
        let column = e.downcast_ref::<physical::Column>()?;
        let field = schema.fields().get(column.index())?;
        (plain(column.index()) && field.name() == column.name() && comparable(field.data_type()))
            .then(|| field.data_type().clone())
    };
    let literal = |e: &Arc<dyn PhysicalExpr>, of: &DataType| {
        e.downcast_ref::<physical::Literal>().is_some_and(|l| l.value().data_type() == *of)
    };
    if let Some(binary) = expr.downcast_ref::<physical::BinaryExpr>() {
        let (left, right) = (binary.left(), binary.right());
        return match binary.op() {
            Operator::And | Operator::Or => {
                physical_node(left, schema, plain, nodes) && physical_node(right, schema, plain, nodes)
            }
            op if compares(*op) => {
                column(left).is_some_and(|t| literal(right, &t)) || column(right).is_some_and(|t| literal(left, &t))
            }
            _ => false,
        };
    }
    if let Some(not) = expr.downcast_ref::<physical::NotExpr>() {
        return physical_node(not.arg(), schema, plain, nodes);
    }
    if let Some(list) = expr.downcast_ref::<physical::InListExpr>() {
        return list.list().len() <= NODES_MAX
            && column(list.expr()).is_some_and(|t| list.list().iter().all(|value| literal(value, &t)));
    }
    if let Some(null) = expr.downcast_ref::<physical::IsNullExpr>() {
        return column(null.arg()).is_some();
    }
    if let Some(null) = expr.downcast_ref::<physical::IsNotNullExpr>() {
        return column(null.arg()).is_some();
    }
    // What a dynamic filter will hold is not known yet, but it is built of comparisons of its children with values
    // that came out above the barrier; so the children must be bare unmasked columns.
    if let Some(dynamic) = expr.downcast_ref::<DynamicFilterPhysicalExpr>() {
        let children = dynamic.children();
        return !children.is_empty() && children.iter().all(|child| column(child).is_some());
    }
    column(expr) == Some(DataType::Boolean)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::execution_props::ExecutionProps;
    use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
    use datafusion::logical_expr::{cast, col, in_list, lit};
    use datafusion::physical_expr::create_physical_expr;

    use super::*;

    #[test]
    fn only_conditions_that_cannot_fail_pass_in_both_forms() {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("flag", DataType::Boolean, true),
            Field::new("secret", DataType::Utf8View, true),
        ]);
        let frame = DFSchema::try_from(schema.clone()).unwrap();
        let plain = |name: &str| match name {
            "n" => Some(DataType::Int64),
            "flag" => Some(DataType::Boolean),
            _ => None,
        };
        let cases = [
            (col("n").eq(lit(1i64)), true),
            (lit(1i64).lt(col("n")), true),
            (col("n").gt(lit(1i64)).and(col("n").lt_eq(lit(9i64)).or(col("flag"))), true),
            (in_list(col("n"), vec![lit(1i64), lit(2i64)], false), true),
            (col("n").is_null().or(col("n").is_not_null()), true),
            (!col("flag"), true),
            (col("n").eq(lit(1i32)), false),
            (col("secret").eq(lit("x")), false),
            (col("secret").is_null(), false),
            (col("n").eq(col("n")), false),
            ((lit(1i64) / col("n")).gt(lit(0i64)), false),
            (cast(col("n"), DataType::Int32).eq(lit(1i32)), false),
            (col("n").eq(lit(1i64)).and(col("secret").eq(lit("x"))), false),
        ];
        for (expr, good) in cases {
            assert_eq!(logical(&expr, &plain), good, "{expr}");
            if let Ok(built) =
                create_physical_expr(&expr, &frame, &ExecutionProps::new(), &PhysicalPlanningContext::default())
            {
                assert_eq!(physical(&built, &schema, &|i| i < 2), good, "{expr}");
            }
        }
    }
}
