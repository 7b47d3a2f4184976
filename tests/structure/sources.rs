//! The modules of a crate, and every path that the code of each names.
//!
//! Paths are made absolute: `crate`, `self` and `super` are resolved, names that a module has only
//! imported are followed to where they come from. Macros are read as tokens, since what they make
//! of them is unknown; attributes too. This file must not know what a path may lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprMethodCall, Item, Macro, Meta, UseTree};

/// The name by which `main.rs` calls the library.
const LIBRARY: &str = "dripline";

/// Segments below the crate, such as `["drip", "schedule"]`; the crate itself has none.
pub type Path = Vec<String>;

/// The modules of a crate by their path.
#[derive(Debug, Default)]
pub struct Sources {
    pub modules: BTreeMap<Path, Module>,
    /// Files that no module declares.
    pub orphans: Vec<String>,
}

/// What one module names.
#[derive(Debug, Default)]
pub struct Module {
    /// Below `src/`.
    pub file: String,
    /// Paths into the crate as they are written, without `crate`.
    pub inner: BTreeSet<Path>,
    /// All other paths of two segments or more, and all imports.
    pub outer: BTreeSet<Path>,
    /// Methods that are called.
    pub methods: BTreeSet<String>,
    /// The names that imports give to what is elsewhere in the crate.
    names: BTreeMap<String, Path>,
    /// Names that imports give to what is outside.
    outer_names: BTreeMap<String, Path>,
}

/// One step from a module to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: Path,
    /// The module that is led to.
    pub to: Path,
    /// The path that leads there.
    pub by: Path,
}

impl Sources {
    /// The sources of a directory.
    pub fn below(src: &FilePath) -> Self {
        let mut files = BTreeMap::new();
        collect(src, src, &mut files);
        assert!(files.len() > 100, "{} files below {}", files.len(), src.display());
        Self::new(files)
    }

    /// The sources of files, named below `src/`.
    pub fn new(files: impl IntoIterator<Item = (String, String)>) -> Self {
        let files: BTreeMap<String, String> = files.into_iter().collect();
        let mut reader = Reader { files: &files, seen: BTreeSet::new(), sources: Self::default() };
        for (root, path) in [("lib.rs", vec![]), ("main.rs", vec!["main".to_owned()])] {
            if files.contains_key(root) {
                reader.read_file(root, path, false);
            }
        }
        let orphans = files.keys().filter(|file| !reader.seen.contains(*file)).cloned().collect();
        Self { orphans, ..reader.sources }
    }

    /// Every arrow from a module to another, re-exports followed.
    pub fn arrows(&self) -> BTreeSet<Arrow> {
        let mut arrows = BTreeSet::new();
        for (from, module) in &self.modules {
            for path in &module.inner {
                for to in self.resolve(path) {
                    if to != *from {
                        arrows.insert(Arrow { from: from.clone(), to, by: path.clone() });
                    }
                }
            }
        }
        arrows
    }

    /// The modules that a path leads through: the one that it names, and the one where what it
    /// names is defined, if that is another.
    pub fn resolve(&self, path: &[String]) -> Vec<Path> {
        let mut found = Vec::new();
        let mut path = path.to_vec();
        // A chain of re-exports longer than this would be a ring of them.
        for _ in 0..16 {
            let length = (0..=path.len()).rev().find(|&n| self.modules.contains_key(&path[..n]));
            let length = length.expect("the crate itself is a module");
            found.push(path[..length].to_vec());
            let Some(name) = path.get(length) else { break };
            let Some(target) = self.modules[&path[..length]].names.get(name) else { break };
            path = target.iter().chain(&path[length + 1..]).cloned().collect();
        }
        found
    }
}

/// The files below a directory, by their path below `src`.
fn collect(src: &FilePath, directory: &FilePath, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(src, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

struct Reader<'a> {
    files: &'a BTreeMap<String, String>,
    seen: BTreeSet<String>,
    sources: Sources,
}

impl Reader<'_> {
    /// Reads a file as the module of that path; a file of tests is only marked as seen.
    fn read_file(&mut self, file: &str, path: Path, tests: bool) {
        assert!(self.seen.insert(file.to_owned()), "{file} is two modules");
        let text = &self.files[file];
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.read_items(file, path, &parsed.items, tests);
    }

    fn read_items(&mut self, file: &str, path: Path, items: &[Item], tests: bool) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut paths = Paths { module: &mut module, path: &path, depth: 0 };
        for item in items {
            paths.visit_item(item);
        }
        if !tests {
            self.sources.modules.insert(path.clone(), module);
        }
        for item in items {
            let Item::Mod(inner) = item else { continue };
            let tests = tests || is_for_tests(&inner.attrs);
            let path: Path = path.iter().cloned().chain([inner.ident.to_string()]).collect();
            match &inner.content {
                Some((_, items)) => self.read_items(file, path, items, tests),
                None => {
                    let place = path.join("/");
                    let candidates = [format!("{place}.rs"), format!("{place}/mod.rs")];
                    let found = candidates.iter().find(|file| self.files.contains_key(*file));
                    let found = found.unwrap_or_else(|| panic!("{file}: no file for {place}"));
                    self.read_file(found, path, tests);
                }
            }
        }
    }
}

/// Collects the paths of one module. Modules in it are left out: they are read by themselves.
struct Paths<'a> {
    module: &'a mut Module,
    path: &'a [String],
    /// How many items, and so scopes of imports, are around.
    depth: usize,
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if matches!(item, Item::Mod(_)) || is_for_tests(attributes(item)) {
            return;
        }
        self.depth += 1;
        visit::visit_item(self, item);
        self.depth -= 1;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut prefix = Vec::new();
        // A leading `::` names a crate, as most first segments do.
        self.imports(&item.tree, &mut prefix);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, node: &'ast Macro) {
        self.tokens(node.tokens.clone());
        visit::visit_macro(self, node);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        if let Expr::MethodCall(ExprMethodCall { method, .. }) = expression {
            self.module.methods.insert(method.to_string());
        }
        visit::visit_expr(self, expression);
    }
}

impl Paths<'_> {
    /// Notes what an import names, and by which name.
    fn imports(&mut self, tree: &UseTree, prefix: &mut Path) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.imports(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.imports(tree, prefix)),
            UseTree::Name(name) if name.ident == "self" => {
                let alias = prefix.last().cloned().unwrap_or_default();
                self.import(prefix.clone(), &alias);
            }
            UseTree::Name(name) => {
                let alias = name.ident.to_string();
                self.import([prefix.as_slice(), std::slice::from_ref(&alias)].concat(), &alias);
            }
            UseTree::Rename(rename) if rename.ident == "self" => {
                self.import(prefix.clone(), &rename.rename.to_string());
            }
            UseTree::Rename(rename) => {
                prefix.push(rename.ident.to_string());
                self.import(prefix.clone(), &rename.rename.to_string());
                prefix.pop();
            }
            UseTree::Glob(_) => {
                self.import([prefix.as_slice(), &["*".to_owned()]].concat(), "*");
            }
        }
    }

    fn import(&mut self, written: Path, alias: &str) {
        let at_top = self.depth <= 1;
        match self.absolute(&written) {
            Some(path) => {
                if at_top {
                    self.module.names.insert(alias.to_owned(), path.clone());
                }
                self.module.inner.insert(path);
            }
            None => {
                if at_top {
                    self.module.outer_names.insert(alias.to_owned(), written.clone());
                    // `use child::Item` names a module below this one: a crate of that name has
                    // no entry there.
                    let below = self.path.iter().chain(&written).cloned().collect();
                    self.module.names.insert(alias.to_owned(), below);
                }
                self.module.outer.insert(written);
            }
        }
    }

    /// Notes a path that the code names.
    fn name(&mut self, written: Path) {
        match self.absolute(&written) {
            Some(path) => {
                self.module.inner.insert(path);
            }
            None if written.len() > 1 => {
                let full = match self.module.outer_names.get(&written[0]) {
                    Some(import) => import.iter().chain(&written[1..]).cloned().collect(),
                    None => written,
                };
                self.module.outer.insert(full);
            }
            None => {}
        }
    }

    /// The path below the crate, if it leads into the crate.
    fn absolute(&self, written: &[String]) -> Option<Path> {
        let (first, rest) = written.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            LIBRARY if self.path.first().is_some_and(|first| first == "main") => Vec::new(),
            "self" if !rest.is_empty() => self.path.to_vec(),
            "super" => self.path.split_last()?.1.to_vec(),
            _ => return None,
        };
        let mut rest = rest;
        while let Some(("super", more)) = rest.split_first().map(|(name, more)| (&**name, more)) {
            base.pop();
            rest = more;
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// Notes every path in tokens whose grammar is not known.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 => path.push(ident.to_string()),
                TokenTree::Ident(ident) => {
                    self.name(std::mem::replace(&mut path, vec![ident.to_string()]));
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    // `use` groups do not occur in the arguments of macros.
                    debug_assert!(colons < 2 || group.delimiter() != Delimiter::Brace);
                    self.name(std::mem::take(&mut path));
                    self.tokens(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {
                    self.name(std::mem::take(&mut path));
                }
            }
            colons = 0;
        }
        self.name(path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether code with these attributes is compiled for tests alone: `#[cfg(test)]`, or
/// `#[cfg(all(test, …))]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    fn demands_tests(meta: &Meta) -> bool {
        let Meta::List(list) = meta else { return meta.path().is_ident("test") };
        list.path.is_ident("all")
            && list
                .parse_args_with(
                    syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated,
                )
                .is_ok_and(|metas| metas.iter().any(demands_tests))
    }
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<Meta>().is_ok_and(|meta| demands_tests(&meta))
    })
}
