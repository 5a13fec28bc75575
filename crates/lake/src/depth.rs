//! Statements are planned and run on threads of their own with deep stacks, and no statement is deeper than those bear.
//!
//! Parser, planner and expressions recurse over the syntax tree; a chain such as `a OR b OR c ...` is as deep as it is
//! long. Without a bound one statement would end the node. The bound is on the tokens that can nest, counted before
//! anything recurses. Threads of their own also keep a heavy statement from holding up the doors.

use std::future::Future;

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use products::SqlError;
use tokio::runtime::{Builder, Runtime};

use crate::error;

/// Words, signs and values of one statement.
const TOKENS_MAX: usize = 12_000;
/// Tokens that can nest, in one statement.
const NESTING_MAX: usize = 500;
/// Joins by keyword, and queries within the statement: planning time grows fast with both.
const JOINS_MAX: usize = 16;
const QUERIES_MAX: usize = 32;
/// Open brackets at once, and those of calls: the parser tries each call within a call twice, so its time doubles.
const BRACKETS_MAX: usize = 32;
const CALLS_MAX: usize = 10;
/// Virtual memory; only what a statement touches is used. Measured for a debug build at [`NESTING_MAX`].
const STACK_BYTES: usize = 256 << 20;

/// Refuses a statement that nests, or could nest, more than the stacks bear. Reads tokens only; does not recurse.
pub fn check(sql: &str) -> Result<(), SqlError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize()
        .map_err(|_| SqlError::Invalid { what: "the statement cannot be read: look for an open quote".into() })?;
    let mut found = Found::default();
    for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
        found.see(token);
    }
    for (what, n, max) in [
        ("words and signs", found.all, TOKENS_MAX),
        ("operators and brackets", found.nesting, NESTING_MAX),
        ("joins", found.joins, JOINS_MAX),
        ("queries within it", found.queries, QUERIES_MAX),
        ("brackets within brackets", found.deepest, BRACKETS_MAX),
        ("calls within calls", found.deepest_calls, CALLS_MAX),
    ] {
        if n > max {
            return Err(SqlError::Refused { what: format!("the statement has {n} {what}, more than {max}: split it") });
        }
    }
    Ok(())
}

/// What a statement has of each.
#[derive(Default)]
struct Found {
    all: usize,
    nesting: usize,
    joins: usize,
    queries: usize,
    /// Whether each open bracket is a call's.
    open: Vec<bool>,
    deepest: usize,
    deepest_calls: usize,
    after_name: bool,
}

impl Found {
    fn see(&mut self, token: &Token) {
        self.all += 1;
        let call = std::mem::take(&mut self.after_name);
        match token {
            Token::Word(word) => {
                self.joins += usize::from(word.keyword == Keyword::JOIN);
                self.queries += usize::from(word.keyword == Keyword::SELECT);
                let plain = matches!(
                    word.keyword,
                    Keyword::NoKeyword | Keyword::AS | Keyword::ASC | Keyword::DESC | Keyword::SELECT | Keyword::FROM
                );
                self.nesting += usize::from(!plain);
                // `IN (`, `AND (` open no call; a name does, and so do words that are names of functions too.
                self.after_name = !matches!(
                    word.keyword,
                    Keyword::IN
                        | Keyword::AS
                        | Keyword::AND
                        | Keyword::OR
                        | Keyword::NOT
                        | Keyword::FROM
                        | Keyword::JOIN
                        | Keyword::ON
                        | Keyword::WHERE
                        | Keyword::SELECT
                        | Keyword::UNION
                        | Keyword::ALL
                        | Keyword::EXISTS
                        | Keyword::VALUES
                        | Keyword::WHEN
                        | Keyword::THEN
                        | Keyword::ELSE
                        | Keyword::BY
                        | Keyword::OVER
                        | Keyword::LATERAL
                );
            }
            Token::LParen | Token::LBracket => {
                self.nesting += 1;
                self.open.push(call && matches!(token, Token::LParen));
                self.deepest = self.deepest.max(self.open.len());
                self.deepest_calls = self.deepest_calls.max(self.open.iter().filter(|call| **call).count());
            }
            Token::RParen | Token::RBracket => drop(self.open.pop()),
            Token::Comma
            | Token::Period
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::SemiColon
            | Token::EOF => {}
            _ => self.nesting += 1,
        }
    }
}

/// Runs what recurses over a syntax tree on a deep stack of its own.
pub fn deeply<T: Send>(work: impl FnOnce() -> Result<T, SqlError> + Send) -> Result<T, SqlError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql-parse".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, work) {
            Ok(running) => running.join().unwrap_or_else(|_| Err(error::broken("parse"))),
            Err(_) => Err(SqlError::Busy { retry_after_ms: 500 }),
        }
    })
}

/// The threads statements run on.
pub struct SqlThreads(Option<Runtime>);

impl SqlThreads {
    pub fn start(threads: usize) -> Result<SqlThreads, SqlError> {
        Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map(|runtime| SqlThreads(Some(runtime)))
            .map_err(|_| error::broken("threads"))
    }

    /// Runs a statement there. Dropping the returned future stops the statement.
    pub async fn run<T: Send + 'static>(
        &self,
        statement: impl Future<Output = Result<T, SqlError>> + Send + 'static,
    ) -> Result<T, SqlError> {
        let Some(runtime) = &self.0 else { return Err(error::broken("threads")) };
        let mut tasks = tokio::task::JoinSet::new();
        // A set of one: dropping it aborts the task.
        tasks.spawn_on(statement, runtime.handle());
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            // It panicked; the panic is its own and ends nothing else.
            _ => Err(error::broken("statement")),
        }
    }
}

impl Drop for SqlThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
