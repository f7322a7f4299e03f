//! The operations as commands: their names, arguments and help come from the descriptors.
//!
//! `probe` takes what observes and `do` what changes; each knows the other's names, so that a slip gets the right
//! command in answer. An argument is checked here against the same rules that controller and agent apply again.

use clap::{
    Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches, Subcommand,
    builder::PossibleValuesParser,
    error::{Error as ClapError, ErrorKind},
    value_parser,
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use vigie_proto::{
    descriptors,
    operation::{Effect, OPERATIONS, Operation, check},
    v1,
};

use super::{Limit, selection::Selection};
use crate::{output::json::enum_name, view::request::typed};

/// One operation with its arguments, where, and for how long.
#[derive(Debug)]
pub(crate) struct Call {
    pub request: v1::Request,
    pub selection: Selection,
    pub limit: Limit,
}

/// A call of `probe`: the operation only looks.
#[derive(Debug)]
pub(crate) struct Observation(pub Call);

/// A call of `do`: the operation changes something.
#[derive(Debug)]
pub(crate) struct Change(pub Call);

/// Which of the two commands an operation belongs to.
fn verb(operation: &Operation) -> &'static str {
    if operation.effect == Effect::Observe { "probe" } else { "do" }
}

impl FromArgMatches for Observation {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        call("probe", matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Observation {
    fn augment_subcommands(command: Command) -> Command {
        augment("probe", command)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        augment("probe", command)
    }

    fn has_subcommand(name: &str) -> bool {
        Operation::find(name).is_some_and(|operation| verb(operation) == "probe")
    }
}

impl FromArgMatches for Change {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        call("do", matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Subcommand for Change {
    fn augment_subcommands(command: Command) -> Command {
        augment("do", command)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        augment("do", command)
    }

    fn has_subcommand(name: &str) -> bool {
        Operation::find(name).is_some_and(|operation| verb(operation) == "do")
    }
}

/// Adds every operation: its own with their arguments, the other command's hidden, to answer a slip.
fn augment(of: &str, command: Command) -> Command {
    let command = command.subcommand_required(true);
    OPERATIONS.iter().fold(command, |command, operation| {
        let sub = Command::new(typed(operation.name));
        let sub = if operation.name.contains('_') { sub.alias(operation.name) } else { sub };
        let sub = if verb(operation) == of { arguments(sub, operation) } else { misplaced(sub) };
        // Last: what is flattened into a command brings its own description along.
        command.subcommand(sub.about(operation.summary).long_about(None))
    })
}

fn misplaced(command: Command) -> Command {
    let anything = Arg::new("anything").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
    command.hide(true).disable_help_flag(true).disable_version_flag(true).arg(anything)
}

fn arguments(command: Command, operation: &Operation) -> Command {
    let needs = match operation.effect {
        Effect::Observe => "Changes nothing.",
        Effect::Destroy => "Loses something; needs your signature.",
        _ => "Changes its hosts; needs your signature.",
    };
    let seconds = operation.timeout().as_secs_f64();
    let command =
        command.after_help(format!("{needs} Runs for at most {seconds} s on a host, unless --timeout says."));
    let fields =
        descriptors::request(operation.name).into_iter().flat_map(|request| argument_fields(&request));
    let command = fields.fold(command, |command, field| command.arg(argument(&field)));
    Limit::augment_args(Selection::augment_args(command))
}

/// The fields that have an argument of their own. `stack` is the selection's: it says where, not what.
fn argument_fields(request: &MessageDescriptor) -> Vec<FieldDescriptor> {
    request.fields().filter(|field| field.name() != "stack").collect()
}

fn argument(field: &FieldDescriptor) -> Arg {
    let rules = descriptors::rules(field);
    let help = match rules.default.as_str() {
        "" => rules.help.clone(),
        default => format!("{} [default: {default}]", rules.help),
    };
    let arg = Arg::new(field.name().to_owned()).help(help).required(rules.required);
    let arg = match field.kind() {
        Kind::Bool => arg.action(ArgAction::SetTrue),
        Kind::Enum(kind) => {
            let names = kind.values().filter(|value| value.number() != 0);
            arg.value_parser(PossibleValuesParser::new(names.map(|value| enum_name(&kind, value.number()))))
        }
        Kind::Uint32 => {
            let (min, max) = if (rules.min, rules.max) == (0, 0) {
                (0, i64::from(u32::MAX))
            } else {
                (rules.min, rules.max)
            };
            arg.value_parser(value_parser!(u32).range(min..=max))
        }
        _ => arg,
    };
    let arg = if field.is_list() { arg.action(ArgAction::Append) } else { arg };
    if rules.trailing {
        return arg.last(true).num_args(0..).value_name("ARG").allow_hyphen_values(true);
    }
    let arg = if field.is_list() { arg.value_delimiter(',') } else { arg };
    let arg = arg.long(typed(field.name())).value_name(field.name().to_uppercase());
    if field.name().contains('_') { arg.alias(field.name().to_owned()) } else { arg }
}

/// Reads the call that was parsed.
fn call(of: &str, matches: &ArgMatches) -> Result<Call, ClapError> {
    let wrong = |kind, message: String| ClapError::raw(kind, message);
    let named = matches.subcommand().and_then(|(name, matches)| Some((Operation::find(name)?, matches)));
    let Some((operation, matches)) = named else {
        return Err(wrong(ErrorKind::MissingSubcommand, format!("`{of}` needs an operation")));
    };
    let name = typed(operation.name);
    if verb(operation) != of {
        let kind = if of == "do" { "only looks" } else { "changes its host" };
        let right = verb(operation);
        return Err(wrong(
            ErrorKind::InvalidSubcommand,
            format!("`{name}` {kind}\nhint: `vigiectl {right} {name} …` is the command"),
        ));
    }
    let selection = Selection::from_arg_matches(matches)?;
    let limit = Limit::from_arg_matches(matches)?;
    let request = request(operation, matches, selection.stack.as_deref())
        .ok_or_else(|| wrong(ErrorKind::InvalidValue, format!("`{name}` cannot be put together")))?;
    check(&request).map_err(|error| {
        wrong(
            ErrorKind::ValueValidation,
            format!("{error}\nhint: `vigiectl {of} {name} --help` shows what it takes"),
        )
    })?;
    Ok(Call { request, selection, limit })
}

/// Puts the arguments into the operation's message.
fn request(operation: &Operation, matches: &ArgMatches, stack: Option<&str>) -> Option<v1::Request> {
    let descriptor = descriptors::request(operation.name)?;
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in argument_fields(&descriptor) {
        if let Some(value) = given(&field, matches) {
            message.set_field(&field, value);
        }
    }
    if let (Some(stack), Some(field)) = (stack, descriptor.get_field_by_name("stack")) {
        message.set_field(&field, Value::String(stack.to_owned()));
    }
    let mut union = DynamicMessage::new(descriptors::pool().get_message_by_name("vigie.v1.Request")?);
    union.set_field_by_name(operation.name, Value::Message(message));
    union.transcode_to().ok()
}

/// The value of one argument; `None` when it was not given.
fn given(field: &FieldDescriptor, matches: &ArgMatches) -> Option<Value> {
    let name = field.name();
    let one = |value: String| match field.kind() {
        Kind::Enum(kind) => {
            let mut values = kind.values();
            values
                .find(|known| enum_name(&kind, known.number()) == value)
                .map(|known| Value::EnumNumber(known.number()))
        }
        _ => Some(Value::String(value)),
    };
    match (field.kind(), field.is_list()) {
        (Kind::Bool, _) => matches.get_flag(name).then_some(Value::Bool(true)),
        (Kind::Uint32, false) => matches.get_one::<u32>(name).copied().map(Value::U32),
        (Kind::Uint32, true) => {
            matches.get_many::<u32>(name).map(|values| Value::List(values.copied().map(Value::U32).collect()))
        }
        (_, true) => matches
            .get_many::<String>(name)
            .map(|values| Value::List(values.cloned().filter_map(one).collect())),
        (_, false) => matches.get_one::<String>(name).cloned().and_then(one),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use vigie_proto::v1::request::Operation as Asked;

    use super::*;
    use crate::cli::{Cli, Command as Parsed};

    fn parse(line: &str) -> Result<Call, String> {
        match Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?.command {
            Parsed::Probe { call } => Ok(call.0),
            Parsed::Do { call } => Ok(call.0),
            other => Err(format!("{other:?}")),
        }
    }

    fn asked(line: &str) -> Asked {
        parse(line).unwrap().request.operation.unwrap()
    }

    #[test]
    fn arguments_become_the_operations_message() {
        assert_eq!(
            asked("vigiectl probe http-check --target proxy --path /health --wait-ms 500"),
            Asked::HttpCheck(v1::HttpCheckRequest {
                target: v1::HttpTarget::Proxy.into(),
                path: "/health".to_owned(),
                wait_ms: 500,
                ..Default::default()
            })
        );
        assert_eq!(
            asked(
                "vigiectl do compose_up --services backend,redis --services proxy --build --stack sylion --all"
            ),
            Asked::ComposeUp(v1::ComposeUpRequest {
                stack: "sylion".to_owned(),
                services: ["backend", "redis", "proxy"].map(str::to_owned).to_vec(),
                build: true,
            })
        );
        assert_eq!(
            asked("vigiectl probe socket_list --ports 80,443"),
            Asked::SocketList(v1::SocketListRequest { ports: vec![80, 443] })
        );
        assert_eq!(
            asked("vigiectl do exec --program ls -H vps1 -- -l --all a,b"),
            Asked::Exec(v1::ExecRequest {
                program: "ls".to_owned(),
                args: ["-l", "--all", "a,b"].map(str::to_owned).to_vec(),
            })
        );
    }

    #[test]
    fn the_stack_says_where_as_well() {
        let call = parse("vigiectl probe compose-ps --stack sylion -H vps1").unwrap();
        assert_eq!(call.selection.stack.as_deref(), Some("sylion"));
        assert_eq!(
            call.request.operation,
            Some(Asked::ComposePs(v1::ComposePsRequest { stack: "sylion".to_owned() }))
        );
    }

    #[test]
    fn a_slip_gets_the_right_command_in_answer() {
        let error = parse("vigiectl probe compose-restart --services backend -H vps1").unwrap_err();
        assert!(error.contains("vigiectl do compose-restart"), "{error}");
        let error = parse("vigiectl do http_check").unwrap_err();
        assert!(error.contains("vigiectl probe http-check"), "{error}");
    }

    #[test]
    fn values_are_held_to_their_rules() {
        for (line, words) in [
            ("vigiectl probe unit-status --unit ;id", "does not match"),
            ("vigiectl probe unit-status", "required"),
            ("vigiectl probe socket-list --ports 70000", "65535"),
            ("vigiectl probe http-check --target everyone", "backend, proxy, url"),
            ("vigiectl probe container-logs --lines 9000", "5000"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn every_operation_is_a_command_with_help_for_every_field() {
        let mut command = Cli::command();
        command.build();
        for operation in OPERATIONS {
            let sub =
                command.find_subcommand(verb(operation)).unwrap().find_subcommand(operation.name).unwrap();
            // Help is wrapped; its words are what counts.
            let help = sub.clone().render_long_help().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(operation.summary), "{}", operation.name);
            for field in argument_fields(&descriptors::request(operation.name).unwrap()) {
                let rules = descriptors::rules(&field);
                assert!(help.contains(rules.default.as_str()), "{}: {}", operation.name, field.name());
                let flag = format!("--{}", typed(field.name()));
                assert!(rules.trailing || help.contains(&flag), "{}: {flag}", operation.name);
            }
        }
    }
}
