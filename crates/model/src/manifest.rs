//! The deployment manifest: the desired properties of `$edgeAgent`, parsed whole.
//!
//! One parser for both sides: the cloud refuses a bad manifest before it stores it, the device
//! before it acts on it. All faults come in one answer, each with its path. A field that
//! nobody reads is a fault, for a typing error must not pass in silence.
//!
//! Source: deployment schema 1.0 and 1.1 (`doc/deployment-schema-1.0.json` of Azure IoT Edge).

pub mod create_options;
mod fields;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::id::ModuleName;
use crate::image;
use crate::secret::Secret;
use fields::{Faults, Fields};

/// Most modules in one manifest. Source: IoT Hub quotas.
pub const MODULES_MAX: usize = 50;
/// Most pieces of `createOptions`: the first, and `createOptions01` to `createOptions99`.
pub const CREATE_OPTIONS_PIECES_MAX: usize = 100;
/// Most variables of one module.
pub const VARIABLES_MAX: usize = 256;

/// What one device is to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// `1.0` or `1.1`.
    pub schema_version: Box<str>,
    /// `runtime.settings`, as far as it is reported back.
    pub runtime: RuntimeSettings,
    /// Credentials for registries.
    pub registries: Vec<RegistryCredentials>,
    /// What is said about the edge agent itself.
    pub edge_agent: SystemModule,
    /// What is said about the edge hub.
    pub edge_hub: SystemModule,
    /// The user's modules, by name.
    pub modules: BTreeMap<ModuleName, ModuleSpec>,
    /// What was said and has no effect here, with its path; to be reported, not passed over.
    pub notices: Vec<String>,
}

/// `runtime.settings`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// Not enforced, as in the reference; only reported back.
    pub min_docker_version: Box<str>,
    /// JSON text of a log configuration; only reported back.
    pub logging_options: Box<str>,
}

/// One entry of `registryCredentials`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredentials {
    /// Host of the registry.
    pub address: Box<str>,
    /// Who.
    pub username: Box<str>,
    /// Proof.
    pub password: Secret,
}

/// The edge agent or the edge hub. Both are part of this runtime, so their image and
/// variables are reported back but make nothing start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SystemModule {
    /// `settings.image`.
    pub image: Box<str>,
    /// `settings.createOptions`, joined.
    pub create_options: Map<String, Value>,
    /// `env`.
    pub env: BTreeMap<Box<str>, Value>,
    /// `imagePullPolicy`.
    pub pull: PullPolicy,
    /// `startupOrder`; only the edge hub has one.
    pub startup_order: u32,
    /// `configuration.id`: which deployment is in force.
    pub configuration: Box<str>,
}

/// One module of the user.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSpec {
    /// Free text.
    pub version: Box<str>,
    /// Whether it is to run.
    pub status: DesiredStatus,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// When its image is fetched.
    pub pull: PullPolicy,
    /// Lower starts earlier.
    pub startup_order: u32,
    /// The image, trimmed and completed: `x` is `x:latest`.
    pub image: Box<str>,
    /// The digest the image must have, if one is named.
    pub digest: Option<Box<str>>,
    /// Docker's create body, joined from its pieces.
    pub create_options: Map<String, Value>,
    /// Variables: text, number or bool.
    pub env: BTreeMap<Box<str>, Value>,
    /// `configuration.id`.
    pub configuration: Box<str>,
}

/// `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DesiredStatus {
    /// `running`
    #[default]
    Running,
    /// `stopped`
    Stopped,
}

/// `restartPolicy`, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestartPolicy {
    /// `never`
    Never,
    /// `on-failure`
    OnFailure,
    /// `on-unhealthy`, which a missing policy means
    #[default]
    OnUnhealthy,
    /// `always`
    Always,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// `on-create`
    #[default]
    OnCreate,
    /// `never`
    Never,
}

/// The place of a module that names no `startupOrder`: last.
pub const STARTUP_ORDER_LAST: u32 = u32::MAX;

macro_rules! words {
    ($name:ident: $($variant:ident = $text:literal),+) => {
        impl $name {
            /// Azure's word for it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn known() -> &'static [(&'static str, Self)] {
                &[$(($text, Self::$variant)),+]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(DesiredStatus: Running = "running", Stopped = "stopped");
words!(RestartPolicy:
    Never = "never", OnFailure = "on-failure", OnUnhealthy = "on-unhealthy", Always = "always");
words!(PullPolicy: OnCreate = "on-create", Never = "never");

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Names from the root, joined by dots.
    pub path: String,
    /// What is wrong there.
    pub words: String,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidManifest {
    /// There is none yet. Code 417.
    Empty,
    /// Its schema is not ours. Code 412.
    Schema {
        /// What it said.
        said: String,
    },
    /// It cannot be read; all that is wrong. Code 400.
    Faults(Vec<Fault>),
}

impl InvalidManifest {
    /// `lastDesiredStatus.code`. Source: edge agent, `DeploymentStatus`.
    pub fn code(&self) -> u16 {
        match self {
            Self::Empty => 417,
            Self::Schema { .. } => 412,
            Self::Faults(_) => 400,
        }
    }
}

impl fmt::Display for InvalidManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("no deployment in the desired properties"),
            Self::Schema { said } => {
                write!(f, "schemaVersion {said} is not supported; supported are 1.0 and 1.1")
            }
            Self::Faults(faults) => faults.iter().enumerate().try_for_each(|(at, fault)| {
                let separator = if at == 0 { "" } else { "; " };
                write!(f, "{separator}{}: {}", fault.path, fault.words)
            }),
        }
    }
}

impl std::error::Error for InvalidManifest {}

impl Manifest {
    /// Reads the desired properties of `$edgeAgent`, without `$version` and `$metadata`.
    ///
    /// # Errors
    /// [`InvalidManifest`], with every fault it has.
    pub fn parse(desired: &Map<String, Value>) -> Result<Self, InvalidManifest> {
        let mut names = desired.keys().filter(|name| !name.starts_with('$'));
        if names.next().is_none() {
            return Err(InvalidManifest::Empty);
        }
        let schema_version = schema(desired.get("schemaVersion"), &["1.0", "1.1"])?;
        let mut faults = Faults::default();
        let mut root = Fields::root(desired);
        root.skip("schemaVersion");
        let (runtime, registries) = runtime(root.object("runtime", &mut faults), &mut faults);
        let (edge_agent, edge_hub) =
            system_modules(root.object("systemModules", &mut faults), &mut faults);
        let modules = modules(root.optional_object("modules", &mut faults), &mut faults);
        let mut notices = Vec::new();
        // Azure's agent reads it and verifies nothing since 1.5.20.
        if root.optional_object("integrity", &mut faults).is_some() {
            notices.push("integrity: signatures are not verified".to_owned());
        }
        root.end(&mut faults);
        for (name, module) in &modules {
            notices.extend(create_options::unknown(&module.create_options).iter().map(|field| {
                format!(
                    "modules.{name}.settings.createOptions: {field} has no effect: Docker knows \
                     no such field"
                )
            }));
        }
        let manifest =
            Self { schema_version, runtime, registries, edge_agent, edge_hub, modules, notices };
        faults.into_result(manifest)
    }
}

/// Checks a `schemaVersion`: `1.x`, as text, optionally with a third number.
///
/// # Errors
/// [`InvalidManifest::Schema`] if it is absent or none of `known`.
pub fn schema(said: Option<&Value>, known: &[&str]) -> Result<Box<str>, InvalidManifest> {
    let said = said.ok_or_else(|| InvalidManifest::Schema { said: "(absent)".to_owned() })?;
    let unknown = || InvalidManifest::Schema { said: said.to_string() };
    let text = said.as_str().ok_or_else(unknown)?;
    let short = text.strip_suffix(".0").filter(|rest| rest.contains('.')).unwrap_or(text);
    known.iter().find(|known| **known == short).map(|known| (*known).into()).ok_or_else(unknown)
}

fn runtime(
    fields: Option<Fields<'_>>,
    faults: &mut Faults,
) -> (RuntimeSettings, Vec<RegistryCredentials>) {
    let Some(mut fields) = fields else { return Default::default() };
    docker_type(&mut fields, faults);
    let mut read = RuntimeSettings::default();
    let mut registries = Vec::new();
    if let Some(mut settings) = fields.optional_object("settings", faults) {
        read.min_docker_version =
            settings.optional_text("minDockerVersion", faults).unwrap_or_default();
        read.logging_options = settings.optional_text("loggingOptions", faults).unwrap_or_default();
        if let Some(all) = settings.optional_object("registryCredentials", faults) {
            registries = registry_credentials(all, faults);
        }
        settings.end(faults);
    }
    fields.end(faults);
    (read, registries)
}

fn registry_credentials(mut all: Fields<'_>, faults: &mut Faults) -> Vec<RegistryCredentials> {
    let mut read = Vec::new();
    for name in all.names() {
        let Some(mut entry) = all.object(&name, faults) else { continue };
        let address = entry.text("address", faults);
        let username = entry.text("username", faults);
        let password = entry.text("password", faults);
        entry.end(faults);
        if let (Some(address), Some(username), Some(password)) = (address, username, password) {
            let password = Secret::from(&*password);
            read.push(RegistryCredentials { address, username, password });
        }
    }
    read
}

fn system_modules(fields: Option<Fields<'_>>, faults: &mut Faults) -> (SystemModule, SystemModule) {
    let Some(mut fields) = fields else { return Default::default() };
    let agent = fields.object("edgeAgent", faults);
    let agent = agent.map(|it| system_module(it, faults, OnlyAgent::Yes)).unwrap_or_default();
    let hub = fields.object("edgeHub", faults);
    let hub = hub.map(|it| system_module(it, faults, OnlyAgent::No)).unwrap_or_default();
    fields.end(faults);
    (agent, hub)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnlyAgent {
    Yes,
    No,
}

fn system_module(mut fields: Fields<'_>, faults: &mut Faults, which: OnlyAgent) -> SystemModule {
    docker_type(&mut fields, faults);
    let mut read = SystemModule { startup_order: STARTUP_ORDER_LAST, ..SystemModule::default() };
    if which == OnlyAgent::No {
        // Always running and always restarted; other wishes cannot be met.
        if fields.optional_word("status", DesiredStatus::known(), faults)
            == Some(DesiredStatus::Stopped)
        {
            faults.add(&fields.path_of("status"), "the edge hub always runs");
        }
        fields.optional_word("restartPolicy", RestartPolicy::known(), faults);
        read.startup_order = startup_order(&mut fields, faults);
        fields.optional_text("version", faults);
    } else {
        fields.optional_text("version", faults);
    }
    read.pull =
        fields.optional_word("imagePullPolicy", PullPolicy::known(), faults).unwrap_or_default();
    read.env = variables(&mut fields, faults);
    read.configuration = configuration(&mut fields, faults);
    if let Some(settings) = fields.object("settings", faults) {
        let (image, _, create_options) = image_settings(settings, faults);
        read.image = image;
        read.create_options = create_options;
    }
    fields.end(faults);
    read
}

fn modules(fields: Option<Fields<'_>>, faults: &mut Faults) -> BTreeMap<ModuleName, ModuleSpec> {
    let mut read = BTreeMap::new();
    let Some(mut all) = fields else { return read };
    let names = all.names();
    if names.len() > MODULES_MAX {
        faults.add("modules", &format!("{} modules; at most {MODULES_MAX}", names.len()));
    }
    for text in names.into_iter().take(MODULES_MAX) {
        let path = all.path_of(&text);
        let Some(fields) = all.object(&text, faults) else { continue };
        let spec = module(fields, faults);
        match text.parse::<ModuleName>() {
            Ok(_) if matches!(text.as_str(), "edgeAgent" | "edgeHub") => {
                faults.add(&path, "this name is reserved for the runtime");
            }
            Ok(_) if text.starts_with('$') => {
                faults.add(&path, "a module's name does not start with $");
            }
            Ok(name) => drop(read.insert(name, spec)),
            Err(error) => faults.add(&path, &error.to_string()),
        }
    }
    read
}

fn module(mut fields: Fields<'_>, faults: &mut Faults) -> ModuleSpec {
    docker_type(&mut fields, faults);
    let version = fields.optional_text("version", faults).unwrap_or_default();
    let status = fields.word("status", DesiredStatus::known(), faults).unwrap_or_default();
    let restart =
        fields.optional_word("restartPolicy", RestartPolicy::known(), faults).unwrap_or_default();
    let pull =
        fields.optional_word("imagePullPolicy", PullPolicy::known(), faults).unwrap_or_default();
    let startup_order = startup_order(&mut fields, faults);
    let env = variables(&mut fields, faults);
    let configuration = configuration(&mut fields, faults);
    let settings = fields.object("settings", faults);
    let (image, digest, create_options) =
        settings.map(|settings| image_settings(settings, faults)).unwrap_or_default();
    fields.end(faults);
    ModuleSpec {
        version,
        status,
        restart,
        pull,
        startup_order,
        image,
        digest,
        create_options,
        env,
        configuration,
    }
}

fn docker_type(fields: &mut Fields<'_>, faults: &mut Faults) {
    if let Some(said) = fields.text("type", faults)
        && &*said != "docker"
    {
        faults.add(&fields.path_of("type"), &format!("type {said:?} is unknown; known is docker"));
    }
}

fn startup_order(fields: &mut Fields<'_>, faults: &mut Faults) -> u32 {
    let Some(value) = fields.take("startupOrder") else { return STARTUP_ORDER_LAST };
    let read = value.as_u64().and_then(|number| u32::try_from(number).ok());
    read.unwrap_or_else(|| {
        faults.add(
            &fields.path_of("startupOrder"),
            &format!("{value} is not a whole number from 0 to {}", u32::MAX),
        );
        STARTUP_ORDER_LAST
    })
}

fn configuration(fields: &mut Fields<'_>, faults: &mut Faults) -> Box<str> {
    let Some(mut object) = fields.optional_object("configuration", faults) else {
        return Box::default();
    };
    let id = object.optional_text("id", faults).unwrap_or_default();
    object.end(faults);
    id
}

fn variables(fields: &mut Fields<'_>, faults: &mut Faults) -> BTreeMap<Box<str>, Value> {
    let mut read = BTreeMap::new();
    let Some(mut all) = fields.optional_object("env", faults) else { return read };
    let names = all.names();
    if names.len() > VARIABLES_MAX {
        faults.add(&fields.path_of("env"), &format!("more than {VARIABLES_MAX} variables"));
    }
    for name in names.into_iter().take(VARIABLES_MAX) {
        let path = all.path_of(&name);
        let Some(mut entry) = all.object(&name, faults) else { continue };
        match entry.take("value") {
            Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
                if name.is_empty() || name.contains(['=', '\0']) {
                    faults.add(&path, "a variable's name is not empty and has no =");
                }
                read.insert(name.into(), value.clone());
            }
            Some(_) => faults.add(&path, "value must be text, a number, true or false"),
            None => faults.add(&path, "value is missing"),
        }
        entry.end(faults);
    }
    read
}

type ImageSettings = (Box<str>, Option<Box<str>>, Map<String, Value>);

fn image_settings(mut fields: Fields<'_>, faults: &mut Faults) -> ImageSettings {
    let mut image: Box<str> =
        fields.text("image", faults).map(|text| text.trim().into()).unwrap_or_default();
    if image.is_empty() && fields.has_seen("image") {
        faults.add(&fields.path_of("image"), "an image needs a name");
    } else if let Some(bad) = image.chars().find(|c| c.is_whitespace() || c.is_control()) {
        faults.add(&fields.path_of("image"), &format!("an image's name cannot contain {bad:?}"));
    } else if !image.is_empty() {
        match image::completed(&image) {
            Ok(completed) => image = completed,
            Err(invalid) => faults.add(&fields.path_of("image"), &invalid.to_string()),
        }
    }
    let digest = fields.optional_text("digest", faults).filter(|text| !text.is_empty());
    if let Some(digest) = &digest
        && !image::is_digest(digest)
    {
        faults.add(
            &fields.path_of("digest"),
            &format!("{digest:?} is not sha256: and 64 hexadecimal digits"),
        );
    }
    let create_options = create_options(&mut fields, faults);
    fields.end(faults);
    (image, digest, create_options)
}

/// Joins `createOptions`, `createOptions01`, … in the order of their names and reads the whole.
fn create_options(fields: &mut Fields<'_>, faults: &mut Faults) -> Map<String, Value> {
    let mut text = String::new();
    let mut expected = Some("createOptions".to_owned());
    let mut at = 0;
    while let Some(name) = expected.take() {
        match fields.take(&name) {
            Some(Value::String(piece)) => text.push_str(piece),
            // Older tools write the object itself instead of its text.
            Some(Value::Object(object)) if at == 0 => return object.clone(),
            Some(_) => faults.add(&fields.path_of(&name), "must be text"),
            // A missing piece ends the row; a piece after it stays unread and is a fault.
            None => break,
        }
        at += 1;
        if at < CREATE_OPTIONS_PIECES_MAX {
            expected = Some(format!("createOptions{at:02}"));
        }
    }
    if text.trim().is_empty() {
        return Map::new();
    }
    match crate::json::parse(text.as_bytes()) {
        Ok(Value::Object(object)) => return object,
        // The Docker tools write "null" for "nothing".
        Ok(Value::Null) => {}
        Ok(_) => faults.add(&fields.path_of("createOptions"), "must be a JSON object"),
        Err(error) => {
            faults.add(&fields.path_of("createOptions"), &format!("is not JSON: {error}"));
        }
    }
    Map::new()
}

#[cfg(test)]
mod tests;
